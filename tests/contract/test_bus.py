"""What both buses promise about events: the same tests against a real NATS server and the twin in memory."""

from __future__ import annotations

import uuid

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from microtome.bus import headers, subjects
from microtome.bus.bus import Bus
from microtome.errors import InvalidRequest, TooLarge, Unavailable
from tests.contract.traffic import event_subject, take, until

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
    progress = await bus.listen(f"progress.{mine}.>")
    await bus.publish(foreign_subject, b"foreign", message_id=uuid.uuid4().hex)
    await bus.announce(subjects.progress("somebody-else", "w", "j"), b"foreign")
    await bus.publish(my_subject, b"mine", message_id=uuid.uuid4().hex)
    await bus.announce(subjects.progress(mine, "w", "j"), b"mine")
    assert [event.payload for event in await take(events, 1)] == [b"mine"]
    assert [message.payload for message in await take(progress, 1)] == [b"mine"]


async def test_a_slow_listener_loses_the_oldest(bus: Bus) -> None:
    user = uuid.uuid4().hex
    listener = await bus.listen(subjects.progress(user, "w", "j"), buffer=3)
    for number in range(10):
        await bus.announce(subjects.progress(user, "w", "j"), str(number).encode())
    await until(lambda: listener.dropped == 7)
    assert [message.payload for message in await take(listener, 3)] == [b"7", b"8", b"9"]
