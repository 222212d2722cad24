"""A scheduler begins at a snapshot if it can, and never depends on one."""

from __future__ import annotations

import uuid
import zlib
from datetime import UTC, datetime

import pytest

from microtome.contracts.messages import JobSpec, JobStarted, JobType, SeatGranted, WorkflowSubmitted
from microtome.domain.limits import Limits
from microtome.eventlog.log import Append, Cursor, NewEvent
from microtome.eventlog.memory import MemoryEventLog
from microtome.eventlog.patience import LONGEST_S, Patience
from microtome.eventlog.snapshots import Snapshot
from services.scheduler.deciding import Decider
from services.scheduler.folding import Keeping, State, restore


class Memory:
    """`Snapshots` in a variable."""

    def __init__(self, data: bytes | None = None) -> None:
        self.kept = None if data is None else Snapshot(Cursor(1, 1), data, datetime.now(UTC))

    async def load(self) -> Snapshot | None:
        return self.kept

    async def store(self, cursor: Cursor, data: bytes) -> None:
        self.kept = Snapshot(cursor, data, datetime.now(UTC))


async def some_log() -> MemoryEventLog:
    log = MemoryEventLog()
    spec = JobSpec(job_id="j", key="j", type=JobType.TISSUE_MASK, slide_id="s", branch="b", expected_tiles=1)
    for stream, version, message in (
        ("workflow-w", 0, WorkflowSubmitted(workflow_id="w", user_id="ada", name="w", jobs=(spec,))),
        ("seats", 0, SeatGranted(user_id="ada", seat=0)),
        ("workflow-w", 1, JobStarted(job_id="j", attempt=1, slot=0)),
    ):
        meta = {"traceparent": f"00-{version}"}
        new = NewEvent(event_id=uuid.uuid4(), message=message, tenant="ada", meta=meta)
        await log.append(Append(stream, version, (new,)))
    return log


async def folded(log: MemoryEventLog, state: State) -> tuple[list[str], State]:
    """What a decider that begins with `state` looks at, and what it then knows."""
    seen: list[str] = []
    decider = Decider(log, Limits(), lambda event, _: seen.append(type(event.message).__name__), state)
    await decider.catch_up()
    return seen, state


async def test_what_follows_a_snapshot_is_all_that_is_folded() -> None:
    log, snapshots = await some_log(), Memory()
    whole = State()
    for event in (await log.read_all())[:2]:
        whole.take(event)
    await Keeping(whole, snapshots).keep()
    later = State()
    await restore(later, snapshots)
    assert await folded(log, later) == (["JobStarted"], later)
    assert (await folded(log, whole))[1].dump()() == later.dump()()
    assert later.versions == {"workflow-w": 2, "seats": 1}
    assert later.traces["workflow-w"] == "00-0"


@pytest.mark.parametrize(
    "data", [b"", b"nonsense", zlib.compress(b"[1]\n{}"), zlib.compress(b'[{}, {}]\n{"format": 0}')]
)
async def test_a_snapshot_that_cannot_be_read_is_left_alone(data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    state = State()
    await restore(state, Memory(data))
    assert "left alone" in caplog.text
    seen, _ = await folded(await some_log(), state)
    assert seen == ["WorkflowSubmitted", "SeatGranted", "JobStarted"]


def test_a_reader_hurries_only_while_something_happens() -> None:
    patience = Patience()
    assert patience.seconds() == LONGEST_S
    patience.hurry()
    sleeps = [patience.seconds() for _ in range(8)]
    assert sleeps[0] < 0.01
    assert sleeps == sorted(sleeps)
    assert sleeps[-1] == LONGEST_S
