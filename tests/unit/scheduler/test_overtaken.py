"""What the scheduler decided is overtaken: by users who cancel, by workers who take what waits."""

from __future__ import annotations

import asyncio

import pytest

from microtome.contracts.messages import JobCancelled, JobPreempted, JobStarted, SeatGranted
from microtome.domain.limits import Limits
from microtome.eventlog.memory import MemoryEventLog
from microtome.leases.lease import Expired
from microtome.leases.memory import MemoryLeases
from microtome.workflows import Workflows
from services.scheduler.deciding import Decider
from services.scheduler.recovering import Recovery
from tests.integration.eventlog.facts import store, submitted

LIMITS = Limits(max_workers=2, max_active_users=2)


@pytest.mark.parametrize(("cancelled", "preempted"), [("two-a", 0), ("two-c", 1)])
async def test_a_job_gives_up_its_slot_only_to_one_that_starts(cancelled: str, preempted: int) -> None:
    log = MemoryEventLog()
    await store(log, "seats", SeatGranted(user_id="ada", seat=0))
    await store(log, "seats", SeatGranted(user_id="bob", seat=1), tenant="bob")
    await store(log, "workflow-one", submitted("one", {"a": ("x", ()), "b": ("y", ())}))
    for slot, job in enumerate(("one-a", "one-b")):
        await store(log, "workflow-one", JobStarted(job_id=job, attempt=1, slot=slot))
    theirs = submitted("two", {"a": ("x", ()), "b": ("z", ("a",)), "c": ("x", ())}, user="bob")
    await store(log, "workflow-two", theirs, tenant="bob")
    decider = Decider(log, LIMITS, lambda _event, _cluster: None)
    await decider.catch_up()
    await store(log, "workflow-two", JobCancelled(job_id=cancelled), tenant="bob")
    await decider.decide_once()
    kinds = [type(event.message) for event in await log.read_all()]
    assert kinds.count(JobPreempted) == preempted
    assert kinds.count(JobStarted) == 2 + preempted


async def test_how_long_an_attempt_waited_is_forgotten_when_it_was_taken() -> None:
    leases = MemoryLeases(600.0, 0.02)
    log = MemoryEventLog([leases])
    await store(log, "workflow-w", submitted("w", {"a": ("x", ()), "b": ("y", ())}))
    for slot, job in enumerate(("w-a", "w-b")):
        await store(log, "workflow-w", JobStarted(job_id=job, attempt=1, slot=slot))

    async def dispatch(_expired: Expired) -> None:
        raise AssertionError("nothing is lost")

    async def waits(_expired: Expired) -> bool:
        return True

    recovery = Recovery(leases, Workflows(log, LIMITS), dispatch, 0.02, waits)
    await asyncio.sleep(0.05)
    await recovery.step()
    assert set(recovery._waited) == {("w-a", 1), ("w-b", 1)}
    await leases.take("w-a", 1, "somebody", "plan")
    await asyncio.sleep(0.05)
    await recovery.step()
    assert set(recovery._waited) == {("w-b", 1)}
