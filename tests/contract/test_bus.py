"""What both buses promise: the same tests against a real NATS server and the twin in memory."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from nats_server import NatsServer
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from microtome.bus import headers, subjects
from microtome.bus.bus import Bus
from microtome.bus.jetstream import JetStreamBus
from microtome.bus.memory import MemoryBroker, MemoryBus
from microtome.bus.message import Message, Subscription
from microtome.bus.queue import Delivery
from microtome.bus.topology import QueueSpec, infer
from microtome.errors import (
    Conflict,
    InvalidRequest,
    MicrotomeError,
    StaleAttempt,
    TooLarge,
    Unavailable,
    UnreadableSlide,
)

Connect = Callable[[], Awaitable[Bus]]

ACK_WAIT_S = 0.8


@pytest.fixture(params=["jetstream", "memory"])
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[Connect]:
    """Opens connections to one server; all are closed in the end."""
    opened: list[Bus] = []
    if request.param == "jetstream":
        server: NatsServer = request.getfixturevalue("shared_nats")

        async def open_one() -> Bus:
            opened.append(await JetStreamBus.connect(server.url, name="test", timeout_s=10))
            return opened[-1]
    else:
        broker = MemoryBroker()

        async def open_one() -> Bus:
            opened.append(MemoryBus(broker))
            return opened[-1]

    yield open_one
    for bus in opened:
        await bus.close()


@pytest.fixture
async def bus(connect: Connect) -> Bus:
    return await connect()


@pytest.fixture
def spec() -> QueueSpec:
    """A queue that no other test uses, with short waiting times."""
    return dataclasses.replace(infer(uuid.uuid4().hex), ack_wait_s=ACK_WAIT_S, max_deliver=3)


async def put(bus: Bus, spec: QueueSpec, *payloads: bytes) -> None:
    for payload in payloads:
        await bus.publish(spec.subject, payload, message_id=str(uuid.uuid4()))


async def take(subscription: Subscription, count: int, timeout_s: float = 5.0) -> list[Message]:
    async with asyncio.timeout(timeout_s):
        return [await anext(subscription) for _ in range(count)]


async def until(condition: Callable[[], bool], timeout_s: float = 8.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # happens elsewhere
            await asyncio.sleep(0.02)


async def empty(bus: Bus, spec: QueueSpec, timeout_s: float = 5.0) -> None:
    async with asyncio.timeout(timeout_s):
        while await bus.depth(spec):  # happens elsewhere
            await asyncio.sleep(0.02)


def event_subject() -> tuple[str, str]:
    """A user of this test only, and a subject of theirs."""
    user = uuid.uuid4().hex
    return user, subjects.event(user, "workflow", "w1", "JobStarted")


# Publishing


async def test_duplicates_are_dropped(bus: Bus) -> None:
    user, subject = event_subject()
    first = await bus.publish(subject, b"a", message_id=f"{user}-1")
    again = await bus.publish(subject, b"a", message_id=f"{user}-1")
    other = await bus.publish(subject, b"b", message_id=f"{user}-2")
    assert (first.duplicate, again.duplicate, other.duplicate) == (False, True, False)
    assert again.sequence == first.sequence
    async with await bus.subscribe_events(subjects.events_of(user), deliver="all") as events:
        assert [event.payload for event in await take(events, 2)] == [b"a", b"b"]


async def test_what_cannot_be_published(bus: Bus) -> None:
    with pytest.raises(TooLarge):
        await bus.publish("events.u.a.i.T", b"x" * 2_000_000, message_id="large")
    with pytest.raises(Unavailable):
        await bus.publish("no.stream.takes.this", b"", message_id="x", deadline_s=0.3)
    with pytest.raises(InvalidRequest):
        await bus.publish("events.u.a.i.T", b"", message_id="")
    with pytest.raises(InvalidRequest):
        await bus.publish("events.with space", b"", message_id="x", deadline_s=0.3)


async def test_headers_and_trace_travel(bus: Bus) -> None:
    user, subject = event_subject()
    tracer = TracerProvider().get_tracer("test")
    async with await bus.subscribe_events(subjects.events_of(user)) as events:
        with tracer.start_as_current_span("publishing") as span:
            await bus.publish(
                subject, b"", message_id=user, headers={"microtome-cursor": "7:12", "note": "zwei\nZeilen ü"}
            )
        (event,) = await take(events, 1)
    assert event.message_id == user
    assert headers.parse_cursor(event.headers[headers.CURSOR]) == (7, 12)
    assert event.headers["note"] == "zwei Zeilen \\xfc"
    carried = trace.get_current_span(headers.trace_context(event.headers)).get_span_context()
    assert carried.trace_id == span.get_span_context().trace_id


# Reading


async def test_events_from_now_on_or_from_the_start(bus: Bus) -> None:
    user, subject = event_subject()
    await bus.publish(subject, b"0", message_id=f"{user}-0")
    new = await bus.subscribe_events(subjects.events_of(user))
    kept = await bus.subscribe_events(subjects.events_of(user), deliver="all")
    for number in range(1, 600):
        await bus.publish(subject, str(number).encode(), message_id=f"{user}-{number}")
    assert [int(event.payload) for event in await take(new, 599)] == list(range(1, 600))
    assert [int(event.payload) for event in await take(kept, 600)] == list(range(600))
    await new.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(new)


async def test_tenants_hear_only_their_own(bus: Bus) -> None:
    mine, my_subject = event_subject()
    _, foreign_subject = event_subject()
    events = await bus.subscribe_events(subjects.events_of(mine))
    progress = await bus.listen(subjects.progress_of(mine))
    await bus.publish(foreign_subject, b"foreign", message_id=uuid.uuid4().hex)
    await bus.announce(subjects.progress("somebody-else", "w", "j"), b"foreign")
    await bus.publish(my_subject, b"mine", message_id=uuid.uuid4().hex)
    await bus.announce(subjects.progress(mine, "w", "j"), b"mine")
    assert [event.payload for event in await take(events, 1)] == [b"mine"]
    assert [message.payload for message in await take(progress, 1)] == [b"mine"]


async def test_a_slow_listener_loses_the_oldest(bus: Bus) -> None:
    user = uuid.uuid4().hex
    listener = await bus.listen(subjects.progress_of(user), buffer=3)
    for number in range(10):
        await bus.announce(subjects.progress(user, "w", "j"), str(number).encode())
    await until(lambda: listener.dropped == 7)
    assert [message.payload for message in await take(listener, 3)] == [b"7", b"8", b"9"]


# Working


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
