"""Looking back: in threads, a few at a time, and no long line."""

from __future__ import annotations

import asyncio
import threading
import uuid
from datetime import UTC, datetime, timedelta

import pytest

from microtome.contracts.messages import JobParameters, JobPlanned, JobSpec, JobStarted, JobType, WorkflowSubmitted
from microtome.domain import waiting
from microtome.domain.limits import Limits
from microtome.errors import Busy
from microtome.eventlog.log import Cursor, StoredEvent
from microtome.replay.timeline import Tracker
from services.gateway import past
from services.gateway.past import Past


async def test_a_few_look_back_at_a_time_and_a_few_more_wait() -> None:
    looking, go_on, at_once, most = Past(), threading.Event(), 0, 0
    lock = threading.Lock()

    def tell() -> str:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        assert go_on.wait(5)
        with lock:
            at_once -= 1
        return threading.current_thread().name

    asking = [asyncio.ensure_future(looking.told(tell)) for _ in range(past.AT_ONCE + past.IN_LINE)]
    await asyncio.sleep(0.05)
    with pytest.raises(Busy):
        await looking.told(tell)
    go_on.set()
    assert all(name.startswith("past") for name in await asyncio.gather(*asking))
    assert most == past.AT_ONCE
    assert await looking.told(lambda: "there is room again") == "there is room again"
    await looking.close()


def test_the_life_of_one_job_does_not_ask_why_all_others_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    specs = tuple(
        JobSpec(
            job_id=f"j{number}",
            key=f"j{number}",
            type=JobType.SEGMENT_CELLS,
            slide_id="s",
            branch=f"b{number}",
            depends_on=(),
            parameters=JobParameters(),
        )
        for number in range(50)
    )
    at, messages = (
        datetime(2026, 1, 1, tzinfo=UTC),
        [
            WorkflowSubmitted(workflow_id="w", user_id="ada", name="w", jobs=specs),
            *(JobStarted(job_id=f"j{number}", attempt=1, slot=number) for number in range(40)),
            *(JobPlanned(job_id=f"j{number}", attempt=1, tiles_total=1) for number in range(40)),
        ],
    )
    asked = 0
    real = waiting.unmet_dependency

    def counted(*arguments: object) -> object:
        nonlocal asked
        asked += 1
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(waiting, "unmet_dependency", counted)
    tracker = Tracker("w", "j49", Limits(), own=True)
    for version, message in enumerate(messages, start=1):
        tracker.take(
            StoredEvent(
                cursor=Cursor(version, version),
                stream="workflow-w",
                version=version,
                event_id=uuid.uuid4(),
                tenant="ada",
                message=message,
                meta={},
                at=at + timedelta(seconds=version),
            )
        )
    told = tracker.finish(at + timedelta(hours=1))
    assert told is not None
    assert [phase.kind for phase in told.phases] == ["seat"]
    assert asked <= len(messages)
