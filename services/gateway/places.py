"""Where everybody stands: the scheduler's knowledge, folded by the gateway itself for showing.

Promises: follows the log within a moment of each append; what a pending job waits for is computed by the very
rules that the scheduler goes by. Begins where the scheduler's snapshot ends, if one can be read, so that a start does
not take longer the longer the log is. Refuses: to decide anything, and to answer from a fold that fell behind, or has
not caught up yet, without saying so (`lagging`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from microtome.contracts.messages import JobPlanned, JobSucceeded
from microtome.domain import cluster as clusters
from microtome.domain.cluster import Cluster
from microtome.domain.forecast import forecast
from microtome.domain.limits import Limits
from microtome.domain.scheduling import Waiting, seat_line, waiting_in
from microtome.domain.state import Workflow
from microtome.errors import MicrotomeError
from microtome.eventlog.log import START, Cursor, EventLog, StoredEvent
from services.gateway.beginning import Beginning

logger = logging.getLogger(__name__)

# So few that reading and folding them does not hold up requests.
_PAGE = 250
_WAIT_S = 1.0
_QUIET_S = 0.5
_LAGGING_S = 10.0
_LAGGING = timedelta(seconds=_LAGGING_S)
_ESTIMATE_S = 2.0
_ESTIMATE_REST = 20
_STEADY = timedelta(seconds=2)
# Workflows whose explanations are kept.
_EXPLAINED_KEPT = 5000
_NOTHING: dict[str, Waiting] = {}


@dataclass(frozen=True, slots=True)
class _Explained:
    """Why the jobs of a workflow wait, good for this state of it and this revision of the line, until a time."""

    workflow: Workflow
    revision: int
    until: datetime | None
    waiting: dict[str, Waiting]


class Places:
    """A `Cluster` that follows the log."""

    def __init__(
        self,
        log: EventLog,
        limits: Limits,
        changed: Callable[[], None],
        begin: Callable[[], Awaitable[Beginning | None]] | None = None,
    ) -> None:
        """`changed` is called after facts moved, at most twice a second; `begin` says where to begin, else START."""
        self._log = log
        self._begin = begin
        self._limits = limits
        self._changed = changed
        self._cluster = Cluster()
        self._cursor: Cursor = START
        self._engine: str | None = None
        self._model: str | None = None
        self._read_at = 0.0
        # Until the end of the log was seen once.
        self._behind = True
        self._tasks: list[asyncio.Task[None]] = []
        self._moved = asyncio.Event()
        # Counts the moves of the line that were announced.
        self._revision = 0
        self._explained: OrderedDict[str, _Explained] = OrderedDict()
        self._estimates: dict[str, datetime] = {}

    def start(self) -> None:
        """Begin to follow."""
        self._tasks = [
            asyncio.create_task(self._follow()),
            asyncio.create_task(self._announce()),
            asyncio.create_task(self._estimate()),
        ]

    async def stop(self) -> None:
        """Stop following."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def cluster(self) -> Cluster:
        """What is known now."""
        return self._cluster

    @property
    def engine(self) -> str | None:
        """The engine of the last finished job."""
        return self._engine

    @property
    def model(self) -> str | None:
        """The model of the job that was planned last."""
        return self._model

    @property
    def lagging(self) -> bool:
        """Whether the log could not be read lately, or what was read is old and more follows."""
        return self._behind or time.monotonic() - self._read_at > _LAGGING_S

    def line(self) -> tuple[str, ...]:
        """Users who wait for a seat, next first."""
        return seat_line(self._cluster)

    def waiting_in(self, workflow_id: str) -> dict[str, Waiting]:
        """Why the pending jobs of a workflow wait, by job id; empty if it has none or is not known yet.

        The very same value as long as nothing is different. What happens to the workflow itself shows at once, what
        happens to others within half a second.
        """
        workflow = self._cluster.workflows.get(workflow_id)
        if workflow is None:
            return _NOTHING
        now = datetime.now(UTC)
        known = self._explained.get(workflow_id)
        if (
            known is not None
            and known.workflow is workflow
            and known.revision == self._revision
            and (known.until is None or now < known.until)
        ):
            return known.waiting
        waiting = waiting_in(self._cluster, workflow, self._limits, now, self._estimates) or _NOTHING
        if known is not None and known.waiting == waiting:
            waiting = known.waiting
        until = min((each.until for each in waiting.values() if each.until is not None), default=None)
        self._explained[workflow_id] = _Explained(workflow, self._revision, until, waiting)
        self._explained.move_to_end(workflow_id)
        if len(self._explained) > _EXPLAINED_KEPT:
            self._explained.popitem(last=False)
        return waiting

    async def _follow(self) -> None:
        while True:
            try:
                if self._begin is not None:
                    self._take(await self._begin())
                    self._begin = None
                if not await self._read_page():
                    await self._log.wait(_WAIT_S)
                # A long log must not hold up requests.
                await asyncio.sleep(0)
            except MicrotomeError as error:
                logger.warning("the log cannot be followed for now: %s", error.detail)
                await asyncio.sleep(_WAIT_S)
            except Exception:
                logger.exception("the log cannot be followed for now")
                await asyncio.sleep(_WAIT_S)

    def _take(self, beginning: Beginning | None) -> None:
        if beginning is not None:
            self._cluster, self._cursor = beginning.cluster, beginning.cursor
            for event in beginning.lately:
                self._note(event.message)
            self._moved.set()

    async def _read_page(self) -> bool:
        page = await self._log.read_all(self._cursor, _PAGE)
        self._read_at = time.monotonic()
        for stored in page:
            self._fold(stored)
            self._cursor = stored.cursor
        if page:
            self._moved.set()
        full = len(page) == _PAGE
        self._behind = full and datetime.now(UTC) - page[-1].at > _LAGGING
        return full

    def _fold(self, stored: StoredEvent) -> None:
        try:
            self._cluster = clusters.evolve(self._cluster, stored.message, stored.at, stored.stream)
        except Exception:
            # Places are for showing; one event that makes no sense must not end the showing of all others.
            logger.exception("an event cannot be folded", extra={"stream": stored.stream})
        self._note(stored.message)

    def _note(self, message: object) -> None:
        if isinstance(message, JobPlanned) and message.model:
            self._model = message.model
        elif isinstance(message, JobSucceeded) and message.result is not None and message.result.engine:
            self._engine = message.result.engine

    async def _announce(self) -> None:
        while True:
            await self._moved.wait()
            self._moved.clear()
            self._revision += 1
            try:
                self._changed()
            except Exception:
                logger.exception("a change of places cannot be announced")
            await asyncio.sleep(_QUIET_S)

    async def _estimate(self) -> None:
        """Foresee when jobs start. In a thread, and seldom enough to take a small part of the process's time."""
        while True:
            began = time.monotonic()
            try:
                await self._renew_estimates()
            except Exception:
                logger.exception("when jobs start cannot be foreseen")
            await asyncio.sleep(max(_ESTIMATE_S, _ESTIMATE_REST * (time.monotonic() - began)))

    async def _renew_estimates(self) -> None:
        cluster, now = self._cluster, datetime.now(UTC)
        if not cluster.rates or not cluster.live:
            self._estimates = {}
            return
        found = await asyncio.to_thread(forecast, cluster, self._limits, now, cluster.rates)
        steady = {job_id: _steady(self._estimates.get(job_id), at, now) for job_id, at in found.items()}
        if steady != self._estimates:
            self._estimates = steady
            self._revision += 1


def _steady(before: datetime | None, at: datetime, now: datetime) -> datetime:
    """The estimate of before where the new one says nearly the same, so that answers do not change all the time."""
    at = at.replace(microsecond=0)
    if before is not None and abs(at - before) <= max(_STEADY, (at - now) / 10):
        return before
    return at
