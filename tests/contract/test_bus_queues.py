"""What both buses promise about work: the same tests against a real NATS server and the twin in memory."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
import uuid

import pytest

from microtome.bus import headers, subjects
from microtome.bus.bus import Bus
from microtome.bus.queue import Delivery
from microtome.bus.topology import QueueSpec, infer
from microtome.errors import Conflict, InvalidRequest, MicrotomeError, StaleAttempt, Unavailable, UnreadableSlide
from tests.contract.traffic import ACK_WAIT_S, Connect, empty, put, take, until


async def test_every_message_is_worked_on_and_gone(bus: Bus, spec: QueueSpec) -> None:
    seen: list[bytes] = []
    most = 0

    async def handle(delivery: Delivery) -> None:
        nonlocal most
        most = max(most, worker.active)
        await asyncio.sleep(0.02)
        seen.append(delivery.payload)

    worker = await bus.consume(spec, handle, concurrency=3)
    await put(bus, spec, *(str(number).encode() for number in range(20)))
    await empty(bus, spec)
    await worker.stop()
    assert sorted(seen, key=int) == [str(number).encode() for number in range(20)]
    assert 1 < most <= 3


async def test_a_dead_workers_message_is_delivered_again(connect: Connect, spec: QueueSpec) -> None:
    doomed, survivor = await connect(), await connect()
    await put(doomed, spec, b"work")
    started = asyncio.Event()

    async def die(_: Delivery) -> None:
        started.set()
        await asyncio.sleep(60)

    await doomed.consume(spec, die, concurrency=1)
    await started.wait()
    died = time.monotonic()
    await doomed.close()  # nothing is settled, and no heartbeat is sent any more

    queue = await survivor.queue(spec)
    (delivery,) = await queue.fetch(1, wait_s=4 * ACK_WAIT_S)
    assert (delivery.payload, delivery.deliveries) == (b"work", 2)
    assert time.monotonic() - died > ACK_WAIT_S / 4
    await delivery.ack()
    assert await survivor.depth(spec) == 0


async def test_long_work_is_not_delivered_twice(connect: Connect, spec: QueueSpec) -> None:
    first, second = await connect(), await connect()
    starts: list[int] = []

    async def work(delivery: Delivery) -> None:
        starts.append(delivery.deliveries)
        await asyncio.sleep(3 * ACK_WAIT_S)

    workers = [await bus.consume(spec, work, concurrency=2) for bus in (first, second)]
    await put(first, spec, b"long")
    await until(lambda: bool(starts))
    await empty(first, spec)
    for worker in workers:
        await worker.stop()
    assert starts == [1]


async def test_poison_goes_to_the_dead_letters_and_the_queue_goes_on(bus: Bus, spec: QueueSpec) -> None:
    letters = await bus.dead_letters("infer", deliver="new")
    failed: list[tuple[bytes, str]] = []
    done: list[bytes] = []

    async def work(delivery: Delivery) -> None:
        if delivery.payload == b"broken":
            raise UnreadableSlide("cannot be read:\nnot a slide")
        if delivery.payload == b"bug":
            raise KeyError("oops")
        done.append(delivery.payload)

    async def on_dead(delivery: Delivery, error: MicrotomeError) -> None:
        failed.append((delivery.payload, error.code))

    worker = await bus.consume(spec, work, concurrency=1, on_dead=on_dead)
    await put(bus, spec, b"broken", b"good", b"bug", b"better")
    first, second = await take(letters, 2)
    await empty(bus, spec)
    await worker.stop()
    assert done == [b"good", b"better"]
    assert failed == [(b"broken", "unreadable-slide"), (b"bug", "internal")]
    assert first.payload == b"broken"
    assert first.headers[headers.ERROR_CODE] == "unreadable-slide"
    assert first.headers[headers.ERROR_DETAIL] == "cannot be read: not a slide"
    assert first.headers[headers.DELIVERIES] == "1"
    assert first.headers[headers.ORIGIN] == spec.subject
    assert second.headers[headers.ERROR_DETAIL] == "KeyError: 'oops'"


async def test_a_message_that_kills_its_workers_is_buried_unseen(connect: Connect, spec: QueueSpec) -> None:
    spec = dataclasses.replace(spec, ack_wait_s=0.3, max_deliver=2)
    bus = await connect()
    letters = await bus.dead_letters("infer", deliver="new")
    await put(bus, spec, b"killer", b"good")
    for expected in (1, 2):
        victim = await connect()
        queue = await victim.queue(spec)
        (delivery,) = await queue.fetch(1, wait_s=3)
        assert (delivery.payload, delivery.deliveries) == (b"killer", expected)
        await victim.close()
        await asyncio.sleep(2 * spec.ack_wait_s)

    seen: list[bytes] = []
    dead: list[str] = []

    async def work(delivery: Delivery) -> None:
        seen.append(delivery.payload)

    async def on_dead(_: Delivery, error: MicrotomeError) -> None:
        dead.append(error.code)

    worker = await bus.consume(spec, work, concurrency=1, on_dead=on_dead)
    await empty(bus, spec)
    await worker.stop()
    assert seen == [b"good"]
    assert dead == ["worker-lost"]
    (letter,) = await take(letters, 1)
    assert letter.payload == b"killer"
    assert "2 times" in letter.headers[headers.ERROR_DETAIL]


async def test_a_transient_failure_is_tried_again_later(bus: Bus, spec: QueueSpec) -> None:
    times: list[float] = []

    async def work(_: Delivery) -> None:
        times.append(time.monotonic())
        if len(times) == 1:
            raise Unavailable("the database restarts")

    worker = await bus.consume(spec, work, concurrency=1)
    await put(bus, spec, b"work")
    await until(lambda: len(times) == 2)
    await empty(bus, spec)
    await worker.stop()
    assert 0.9 < times[1] - times[0] < 3.0


async def test_transient_failures_end_with_the_last_delivery(bus: Bus, spec: QueueSpec) -> None:
    spec = dataclasses.replace(spec, max_deliver=2)
    dead: list[tuple[int, str]] = []

    async def work(_: Delivery) -> None:
        raise Unavailable("the database is gone")

    async def on_dead(delivery: Delivery, error: MicrotomeError) -> None:
        dead.append((delivery.deliveries, error.detail))

    worker = await bus.consume(spec, work, concurrency=1, on_dead=on_dead)
    await put(bus, spec, b"work")
    await until(lambda: bool(dead))
    await empty(bus, spec)
    await worker.stop()
    assert dead == [(2, "the database is gone")]


async def test_stale_work_is_dropped_quietly(bus: Bus, spec: QueueSpec) -> None:
    letters = await bus.dead_letters("infer", deliver="new")

    async def work(delivery: Delivery) -> None:
        if delivery.payload == b"stale":
            raise StaleAttempt
        raise UnreadableSlide

    worker = await bus.consume(spec, work, concurrency=1)
    await put(bus, spec, b"stale", b"bad")
    await empty(bus, spec)
    await worker.stop()
    assert [letter.payload for letter in await take(letters, 1)] == [b"bad"]


async def test_the_dead_are_reported_until_it_is_heard(bus: Bus, spec: QueueSpec) -> None:
    calls = 0

    async def work(_: Delivery) -> None:
        raise UnreadableSlide

    async def on_dead(_: Delivery, __: MicrotomeError) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise Unavailable("the log does not answer")

    letters = await bus.dead_letters("infer", deliver="new")
    worker = await bus.consume(spec, work, concurrency=1, on_dead=on_dead)
    await put(bus, spec, b"bad")
    await until(lambda: calls == 2)
    await empty(bus, spec)
    await worker.stop()
    await bus.publish(subjects.dead("infer"), b"last", message_id=uuid.uuid4().hex)
    assert [letter.payload for letter in await take(letters, 2)] == [b"bad", b"last"]


async def test_stop_lets_handlers_finish_and_sends_back_the_rest(bus: Bus, spec: QueueSpec) -> None:
    spec = dataclasses.replace(spec, ack_wait_s=30.0)
    started: list[bytes] = []
    finished: list[bytes] = []

    async def work(delivery: Delivery) -> None:
        started.append(delivery.payload)
        await asyncio.sleep(0.3 if delivery.payload == b"short" else 60)
        finished.append(delivery.payload)

    worker = await bus.consume(spec, work, concurrency=2)
    await put(bus, spec, b"short", b"endless", b"untouched")
    await until(lambda: len(started) == 2)
    before = time.monotonic()
    stopping = asyncio.create_task(worker.stop(grace_s=0.8))
    await stopping
    assert time.monotonic() - before < 3
    assert started == [b"short", b"endless"]
    assert finished == [b"short"]
    # Nobody has to wait for ack_wait: the cancelled message is there at once.
    queue = await bus.queue(spec)
    again = {delivery.payload: delivery for delivery in await queue.fetch(5, wait_s=2)}
    assert set(again) == {b"endless", b"untouched"}
    assert again[b"endless"].deliveries == 2
    await queue.close()


async def test_several_messages_are_held_and_settled_one_by_one(bus: Bus, spec: QueueSpec) -> None:
    await put(bus, spec, *(bytes([number]) for number in range(5)))
    queue = await bus.queue(spec)
    before = time.monotonic()
    held = await queue.fetch(8, wait_s=3)
    assert time.monotonic() - before < 2, "a fetch must not wait for a full batch"
    assert [delivery.payload[0] for delivery in held] == [0, 1, 2, 3, 4]
    await held[0].ack()
    with pytest.raises(Conflict):
        await held[0].ack()
    await held[1].retry(0.4)
    await held[2].dead(UnreadableSlide("broken tile"))
    sent_back = time.monotonic()
    (again,) = await queue.fetch(8, wait_s=3)
    assert again.payload[0] == 1
    assert 0.3 < time.monotonic() - sent_back < 2
    # The other two are heartbeated while they are held, so nobody gets them.
    assert await queue.fetch(8, wait_s=2.5 * ACK_WAIT_S) == []
    for delivery in (again, held[3], held[4]):
        await delivery.ack()
    assert await bus.depth(spec) == 0
    assert queue.held == ()
    await queue.close()


async def test_a_message_that_comes_again_to_its_holder_is_taken_over(bus: Bus, spec: QueueSpec) -> None:
    await put(bus, spec, b"work")
    queue = await bus.queue(spec)
    (delivery,) = await queue.fetch(4)
    queue._heartbeats.cancel()  # as if the server had not heard from us, through an outage
    assert await queue.fetch(4, wait_s=2 * ACK_WAIT_S) == []
    assert (queue.held, delivery.deliveries) == ((delivery,), 2)
    await delivery.ack()
    assert await bus.depth(spec) == 0
    await queue.close()


async def test_tiles_go_to_nobody_with_another_engine(bus: Bus) -> None:
    """Also while only others ask: who forces fp32 waits for fp32, and is never served by what `auto` chose."""
    digest = uuid.uuid4().hex
    exact, automatic = infer(digest, "onnxruntime-cpu-fp32"), infer(digest, "auto")
    others = await bus.queue(automatic)
    await put(bus, exact, b"exact")
    assert await others.fetch(4, wait_s=0.5) == []
    await put(bus, automatic, b"any")
    (theirs,) = await others.fetch(4)
    assert theirs.payload == b"any"
    await theirs.ack()
    queue = await bus.queue(exact)
    (delivery,) = await queue.fetch(4)
    assert (delivery.payload, delivery.deliveries) == (b"exact", 1)
    await delivery.ack()
    for one in (others, queue):
        await one.close()
    with pytest.raises(InvalidRequest):
        infer(digest, "any.>")


async def test_an_empty_queue_answers_in_time(bus: Bus, spec: QueueSpec) -> None:
    queue = await bus.queue(spec)
    before = time.monotonic()
    assert await queue.fetch(4, wait_s=0.5) == []
    assert 0.4 < time.monotonic() - before < 1.5
    waiting = asyncio.create_task(queue.fetch(4, wait_s=5))
    await asyncio.sleep(0.2)
    await put(bus, spec, b"now")
    (delivery,) = await asyncio.wait_for(waiting, 1.0)
    await delivery.ack()
    # A fetch that is cancelled loses nothing.
    waiting = asyncio.create_task(queue.fetch(4, wait_s=5))
    await asyncio.sleep(0.1)
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    await put(bus, spec, b"later")
    (delivery,) = await queue.fetch(4, wait_s=ACK_WAIT_S / 3)
    assert delivery.deliveries == 1
    await delivery.ack()
    await queue.close()
