"""A job that waits in the merger's long queue is not planned again; one whose message was lost is."""

from __future__ import annotations

from microtome.contracts.messages import JobStarted
from microtome.domain.limits import Limits
from microtome.eventlog.log import Append
from microtome.eventlog.memory import MemoryEventLog
from microtome.leases.lease import Expired
from microtome.leases.memory import MemoryLeases
from microtome.workflows import Workflows, new_event
from services.scheduler.recovering import PATIENCE, Recovery


async def test_a_merge_in_a_long_queue_is_left_there_for_a_while() -> None:
    now = 0.0
    leases = MemoryLeases(clock=lambda: now)
    log = MemoryEventLog([leases])
    await log.append(Append("workflow-w", 0, (new_event(JobStarted(job_id="j", attempt=1, slot=0), "ada"),)))
    queued: list[str] = []
    dispatched: list[Expired] = []

    async def dispatch(expired: Expired) -> None:
        dispatched.append(expired)

    async def waits(expired: Expired) -> bool:
        return expired.stage in queued

    recovery = Recovery(leases, Workflows(log, Limits()), dispatch, 30.0, waits)
    lease = await leases.take("j", 1, "tiler", "plan")
    await leases.hand_over(lease, "merge", 30.0)

    async def steps(count: int) -> int:
        nonlocal now
        before = len(dispatched)
        for _ in range(count):
            now += 31.0
            await recovery.step()
            await recovery.step()  # what was granted more time is left alone
        return len(dispatched) - before

    queued.append("merge")
    assert await steps(PATIENCE) == 0
    assert await steps(1) == 1, "even a queue that never ends may have lost this one"
    assert await steps(PATIENCE) == 0
    queued.clear()
    assert await steps(1) == 1
    # Who has it now, has it: the next one in line finds it in other hands.
    await leases.take("j", 1, "merger", "merge")
    assert not await leases.expired()
