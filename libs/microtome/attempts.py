"""Working on one attempt at a job, fenced and with an end that is always told.

Promises: the body runs only while this process holds the attempt's lease; a cancelled, lost or superseded attempt
stops the body within a renewal; whatever ends the body badly becomes a `JobFailed` that says whether trying again
can help. Refuses: to report success; the body does that, since only it knows the result.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from microtome import clock
from microtome.bus import subjects
from microtome.bus.bus import Bus
from microtome.contracts.codec import to_bytes
from microtome.contracts.messages import JobFailed, JobProgress, SlideDeleted
from microtome.domain.workflow import ReportFailure
from microtome.errors import (
    Busy,
    Conflict,
    MachineFailed,
    MicrotomeError,
    NotFound,
    SlideGone,
    StaleAttempt,
    Unavailable,
    UnreadableSlide,
)
from microtome.joblog import JobLog, Level
from microtome.leases.lease import Lease, Leases, Progress, Stage
from microtome.process import Process
from microtome.readmodels.queries import JobContext

log = logging.getLogger(__name__)

# How long a handed-over job may lie in a queue before it is dispatched again (which costs little: all is in the store).
HAND_OVER_S = 15.0
# How often progress is told; the lease is renewed at the same beat, so it must be short against the lease.
BEAT_S = 1.0


@dataclass(eq=False)
class Attempt:
    """An attempt in work: its job's context, its lease, and how far it is."""

    context: JobContext
    lease: Lease
    user_log: JobLog
    progress: Progress = field(default_factory=Progress)

    @property
    def job_id(self) -> str:
        """The job's global id."""
        return self.context.job_id

    @property
    def attempt(self) -> int:
        """The attempt's number."""
        return self.lease.attempt

    @property
    def handling(self) -> str:
        """Names this handling of this attempt, and no other: what message ids begin with.

        An attempt may be handled twice (a service stopped and gave it back), and the bus must not take the second
        handling's messages for those of the first.
        """
        return f"{self.job_id}:{self.attempt}:{self.lease.owner.rpartition('/')[2]}"

    def note(self, message: str, /, *, level: Level = "info", **about: object) -> None:
        """Tell the job's user what happened; see `microtome.joblog`."""
        self.user_log.write(self.job_id, self.attempt, message, level=level, **about)


@dataclass(frozen=True, slots=True)
class HandOver:
    """The attempt goes on in another service: its next stage, and how to tell that service."""

    stage: Stage
    tell: Callable[[], Awaitable[object]]


Body = Callable[[Attempt], Awaitable[HandOver | None]]


class Attempts:
    """Runs bodies under leases."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._user_log = JobLog(process.data_dir, process.name)

    async def work(self, job_id: str, attempt: int, stage: Stage, body: Body) -> None:
        """Run `body` on this attempt, or do nothing when it is over or in other hands.

        Raises transient errors of the log, the leases or the bus only; then the message must come again.
        """
        leases: Leases = self._process.leases
        extra = {"job_id": job_id, "attempt": attempt}
        try:
            lease = await leases.take(job_id, attempt, f"{self._process.owner}/{clock.new_id().hex[:8]}", stage)
        except (StaleAttempt, Busy) as refused:
            log.info("did not begin: %s", refused, extra=extra)
            return
        try:
            standing = (await leases.progress([job_id])).get(job_id)
            held = Attempt(
                context=await self._process.queries.job_context(job_id),
                lease=lease,
                user_log=self._user_log,
                progress=Progress() if standing is None else standing.progress,
            )
            log.info("%s begins", stage, extra=extra)
            held.note(f"{stage} begins", attempt=attempt, worker=self._process.owner)
            async with leases.keep(lease, BEAT_S, lambda: held.progress):
                going_on = await self._guarded(held, body)
            log.info("%s ends", stage, extra=extra)
            if going_on is not None:
                # First the lease, then the message: whoever reads it must find the lease free.
                await leases.hand_over(lease, going_on.stage, HAND_OVER_S)
                await going_on.tell()
        except StaleAttempt as stale:
            log.info("left an attempt: %s", stale, extra=extra)
            why = "the job was cancelled, gave its place to another user's, or was started anew elsewhere"
            self._user_log.write(job_id, attempt, f"{stage} stopped: {why}")
        finally:
            # A service that stops gives its jobs back at once instead of letting their leases expire. What was handed
            # over or has ended is not held any more, so this does nothing to it.
            with contextlib.suppress(Unavailable):
                await leases.release(lease)

    async def _guarded(self, held: Attempt, body: Body) -> HandOver | None:
        try:
            return await body(held)
        except StaleAttempt:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the job must hear of it
            await self._report(held, error)
            return None

    async def fail(self, job_id: str, workflow_id: str, attempt: int, error: MicrotomeError) -> None:
        """Report that an attempt came to nothing, from outside of it; a stale attempt is left alone."""
        try:
            await self._fail(workflow_id, job_id, attempt, error)
        except (StaleAttempt, NotFound) as over:
            log.info("a failure came too late: %s", over)

    async def _report(self, held: Attempt, error: Exception) -> None:
        known = as_known(error)
        if isinstance(error, UnreadableSlide | OSError) and await self._is_deleted(held.context.slide.slide_id):
            known = SlideGone()
        if isinstance(error, MicrotomeError):
            log.warning("an attempt failed: %s", error, extra={"job_id": held.job_id, "code": known.code})
        else:
            log.error("an attempt failed unexpectedly", exc_info=error, extra={"job_id": held.job_id})
        await self._fail(held.context.workflow_id, held.job_id, held.attempt, known)

    async def _is_deleted(self, slide_id: str) -> bool:
        """Whether its user deleted the slide; a file that is only missing says nothing of that."""
        facts = await self._process.log.read_stream(f"slide-{slide_id}")
        return any(isinstance(fact.message, SlideDeleted) for fact in facts)

    async def _fail(self, workflow_id: str, job_id: str, attempt: int, error: MicrotomeError) -> None:
        command = ReportFailure(
            job_id=job_id,
            attempt=attempt,
            code=error.code,
            detail=error.detail,
            transient=error.transient,
            # The scheduler compares with this clock when the job is to be tried again, not with ours.
            now=await self._process.database.now(),
        )
        try:
            appended = await self._process.workflows.execute(workflow_id, command)
        except Conflict as conflict:
            log.warning("a failure could not be recorded: %s", conflict)
            return
        for event in appended:
            if isinstance(event.message, JobFailed) and event.message.job_id == job_id:
                self._tell_failure(event.message)

    def _tell_failure(self, failed: JobFailed) -> None:
        about = {"code": failed.code, "transient": failed.transient}
        self._user_log.write(failed.job_id, failed.attempt, f"failed: {failed.detail}", level="error", **about)
        if failed.retry_at is not None:
            again = f"will be tried again at {failed.retry_at.isoformat(timespec='seconds')}"
            self._user_log.write(failed.job_id, failed.attempt, again, level="warning")


def as_known(error: Exception) -> MicrotomeError:
    """Return `error` as what a user can be told; whether trying again can help depends on what gave out.

    The machine gives out (memory, disk, a broken mount) for a while; anything else that nobody foresaw stays as it is.
    """
    if isinstance(error, MicrotomeError):
        return error
    kind = MachineFailed if isinstance(error, MemoryError | OSError) else MicrotomeError
    return kind(f"{type(error).__name__}: {error}")


async def tell_progress(bus: Bus, attempt: Attempt, stage: Stage) -> None:
    """Announce how far an attempt is; may be lost."""
    context, now = attempt.context, attempt.progress
    told = JobProgress(
        job_id=context.job_id,
        workflow_id=context.workflow_id,
        attempt=attempt.attempt,
        stage=stage,
        tiles_processed=now.tiles_processed,
        tiles_total=now.tiles_total or 0,
        tiles_skipped=now.tiles_skipped,
        cells=now.cells,
    )
    await bus.announce(subjects.progress(context.user_id, context.workflow_id, context.job_id), to_bytes(told))
