"""What the bus does when NATS or a worker dies: kill -9, nothing less."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
import sys
import time
import uuid
from collections.abc import AsyncIterator

import nats
import pytest
from nats.aio.client import Client
from nats_server import NatsServer

from microtome.bus import provision, subjects, topology
from microtome.bus.jetstream import JetStreamBus
from microtome.bus.queue import Delivery
from microtome.bus.topology import PLAN, QueueSpec, Retention, StreamSpec, Topology, infer
from microtome.errors import ConfigurationError, Unavailable

VICTIM = """
import asyncio, dataclasses, sys
from microtome.bus.jetstream import JetStreamBus
from microtome.bus.topology import infer
async def main():
    bus = await JetStreamBus.connect(sys.argv[1], name="victim")
    async def work(delivery):
        print("started", delivery.payload.decode(), flush=True)
        await asyncio.sleep(60)
    spec = dataclasses.replace(infer(sys.argv[2], "auto"), ack_wait_s=1.0)
    await (await bus.consume(spec, work, concurrency=1)).wait()
asyncio.run(main())
"""


@pytest.fixture
async def client(shared_nats: NatsServer) -> AsyncIterator[Client]:
    await shared_nats.ready()
    connection = await nats.connect(shared_nats.url)
    yield connection
    await connection.close()


async def test_work_of_a_killed_process_is_done_by_another(shared_nats: NatsServer) -> None:
    digest = uuid.uuid4().hex
    spec = dataclasses.replace(infer(digest, "auto"), ack_wait_s=1.0)
    bus = await JetStreamBus.connect(shared_nats.url, name="test", timeout_s=10)
    victim = await asyncio.create_subprocess_exec(
        sys.executable, "-c", VICTIM, shared_nats.url, digest, stdout=asyncio.subprocess.PIPE,
        env={"PYTHONPATH": "libs"},
    )  # fmt: skip
    assert victim.stdout is not None
    await bus.publish(spec.subject, b"tiles", message_id=uuid.uuid4().hex)
    assert await asyncio.wait_for(victim.stdout.readline(), 20) == b"started tiles\n"
    # It is alive and heartbeats: nobody else is given its work.
    queue = await bus.queue(spec)
    assert await queue.fetch(1, wait_s=1.5 * spec.ack_wait_s) == []
    victim.send_signal(signal.SIGKILL)
    await victim.wait()
    killed = time.monotonic()
    (delivery,) = await queue.fetch(1, wait_s=4)
    assert (delivery.payload, delivery.deliveries) == (b"tiles", 2)
    assert time.monotonic() - killed < 3
    await delivery.ack()
    await bus.close()


async def test_consumption_survives_a_killed_server(own_nats: NatsServer) -> None:
    bus = await JetStreamBus.connect(own_nats.url, name="test", timeout_s=10)
    spec = dataclasses.replace(PLAN, ack_wait_s=3.0)
    done: dict[str, int] = {}

    async def work(delivery: Delivery) -> None:
        await asyncio.sleep(0.05)
        done[delivery.message.message_id] = done.get(delivery.message.message_id, 0) + 1

    events = await bus.subscribe_events(subjects.EVENTS)
    worker = await bus.consume(spec, work, concurrency=4)

    async def publish(count: int) -> None:
        for number in range(count):
            await bus.publish(spec.subject, b"plan", message_id=str(number))
            await bus.publish("events.u.workflow.w.JobStarted", str(number).encode(), message_id=f"e{number}")

    publishing = asyncio.create_task(publish(120))
    while len(done) < 20:  # happens elsewhere
        await asyncio.sleep(0.01)
    own_nats.kill()
    with pytest.raises(Unavailable):
        await bus.publish(spec.subject, b"", message_id="while it is down", deadline_s=0.5)
    own_nats.start()
    async with asyncio.timeout(25):
        await publishing
        while len(done) < 120 or await bus.depth(spec):  # happens elsewhere
            await asyncio.sleep(0.05)
    assert set(done) == {str(number) for number in range(120)}
    # Only what was being settled when the server died may come again: a deed each for the workers at most.
    assert set(done.values()) <= {1, 2}
    assert sum(done.values()) <= 120 + 4, "what was done when the server died is not done again here"
    async with asyncio.timeout(10):
        seen = [int((await anext(events)).payload) for _ in range(120)]
    assert seen == list(range(120)), "in order, each once"
    await worker.stop()
    await bus.close()


async def test_a_wiped_server_is_furnished_again(own_nats: NatsServer) -> None:
    bus = await JetStreamBus.connect(own_nats.url, name="test", timeout_s=10)
    done: list[bytes] = []

    async def work(delivery: Delivery) -> None:
        done.append(delivery.payload)

    events = await bus.subscribe_events(subjects.EVENTS)
    heard = await bus.listen("progress.>")
    worker = await bus.consume(PLAN, work, concurrency=1)
    for number in range(5):
        await bus.publish("events.u.workflow.w.Old", b"old", message_id=f"old {number}")
        await anext(events)
    own_nats.kill()
    own_nats.wipe()
    own_nats.start()
    await bus.publish("events.u.workflow.w.New", b"new", message_id="new")
    await bus.publish(PLAN.subject, b"plan", message_id="plan")
    async with asyncio.timeout(15):
        assert (await anext(events)).payload == b"new"
        while done != [b"plan"]:  # happens elsewhere
            await asyncio.sleep(0.05)
    await bus.announce("progress.u.w.j", b"half")
    assert (await asyncio.wait_for(anext(heard), 5)).payload == b"half"
    await worker.stop()
    await bus.close()


async def test_the_queue_of_an_engine_that_nobody_runs_goes_and_its_messages_stay(
    shared_nats: NatsServer, client: Client
) -> None:
    spec = dataclasses.replace(infer(uuid.uuid4().hex, "onnxruntime-cpu-fp32"), inactive_s=1.0)
    bus = await JetStreamBus.connect(shared_nats.url, name="test", timeout_s=10)
    queue = await bus.queue(spec)
    await queue.close()
    await bus.publish(spec.subject, b"tiles", message_id=uuid.uuid4().hex)
    js = client.jetstream()
    async with asyncio.timeout(15):
        while spec.durable in {consumer.name for consumer in await js.consumers_info(spec.stream)}:
            await asyncio.sleep(0.2)
    again = await bus.queue(spec)
    (delivery,) = await again.fetch(1, wait_s=5)
    assert delivery.payload == b"tiles"
    await delivery.ack()
    await again.close()
    await bus.close()


async def test_there_is_no_server() -> None:
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        await JetStreamBus.connect("nats://127.0.0.1:1", name="test", timeout_s=0.3)


# Provisioning


async def test_the_topology_is_made_and_updated(client: Client) -> None:
    js = client.jetstream()
    await provision.ensure_topology(client)
    await provision.ensure_topology(client)
    for spec in topology.STREAMS:
        config = (await js.stream_info(spec.name)).config
        assert config.subjects == list(spec.subjects)
        assert config.storage == "file"
    events = (await js.stream_info("EVENTS")).config
    assert (events.retention, events.max_age) == ("limits", 7 * 24 * 3600)
    plan = (await js.consumer_info("WORK_PLAN", "plan")).config
    assert (plan.ack_policy, plan.ack_wait, plan.max_ack_pending) == ("explicit", 12, 64)
    await provision.ensure_queue(js, dataclasses.replace(PLAN, ack_wait_s=20.0))
    assert (await js.consumer_info("WORK_PLAN", "plan")).config.ack_wait == 20
    await provision.ensure_topology(client)
    assert (await js.consumer_info("WORK_PLAN", "plan")).config.ack_wait == 12


async def test_what_the_server_refuses_is_said(client: Client) -> None:
    js = client.jetstream()
    stream = StreamSpec(name="LAB", subjects=("lab.>",), retention=Retention.LIMITS)
    await provision.ensure_stream(js, stream)
    with pytest.raises(ConfigurationError, match="stream LAB"):
        await provision.ensure_stream(js, dataclasses.replace(stream, retention=Retention.WORK_QUEUE))
    overlap = StreamSpec(name="OTHER", subjects=("lab.x",), retention=Retention.LIMITS)
    with pytest.raises(ConfigurationError, match="overlap"):
        await provision.ensure_topology(client, Topology(streams=(overlap,), queues=()))
    nowhere = QueueSpec(name="q", stream="NOWHERE", durable="q", subject="q")
    with pytest.raises(Unavailable, match="no stream"):
        await provision.ensure_queue(js, nowhere)


def test_an_echo_that_differs_is_named() -> None:
    said = provision.differences({"a": 1, "b": [2], "c": 3}, {"a": 1, "b": [], "d": 4})
    assert said == "b: asked [2], got []; c: asked 3, got None"
    assert provision.differences({"a": 1}, {"a": 1, "b": 2}) == ""


@pytest.mark.parametrize(
    ("version", "good"), [("2.9.25", False), ("1.99.0", False), ("2.10.0", True), ("2.15.1", True), ("3.0.0", True)]
)
def test_old_servers_are_refused(version: str, good: bool) -> None:
    if good:
        provision.check_version(version)
    else:
        with pytest.raises(ConfigurationError, match="too old"):
            provision.check_version(version)
