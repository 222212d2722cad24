"""The constraints that the read models' schema puts on every append: the twin of `readmodels/invariants.sql`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from microtome.contracts.messages import (
    JobsAdded,
    JobStarted,
    Message,
    SeatGranted,
    SeatReleased,
    WorkflowSubmitted,
)
from microtome.errors import Conflict
from microtome.eventlog.log import START, Append, StoredEvent
from microtome.eventlog.memory import MemoryEventLog
from tests.acceptance.laws import ENDS_RUN


@dataclass
class _Rows:
    running: dict[str, tuple[int, tuple[str, str], str]] = field(default_factory=dict)
    seats: dict[str, int] = field(default_factory=dict)

    def copy(self) -> _Rows:
        return _Rows(dict(self.running), dict(self.seats))


class Invariants:
    """One job per slot and per branch, one user per seat, and only seated users' jobs run."""

    def __init__(self) -> None:
        self._rows = _Rows()
        self._last = START
        self._jobs: dict[str, tuple[tuple[str, str], str]] = {}

    def check(self, appends: Iterable[Append], log: MemoryEventLog) -> None:
        """Raise `Conflict` as the database would. What is stored already is not looked at again."""
        rows = self._rows.copy()
        for append in appends:
            for event in append.events:
                if event.event_id not in log._ids:
                    self._apply(rows, append.stream, event.message, event.tenant)
        for slot, _, user in rows.running.values():
            if user not in rows.seats:
                raise Conflict(f"jobs_user_holds_seat: slot {slot}")

    def keep(self, stored: Iterable[StoredEvent]) -> None:
        for event in stored:
            # The same append may come twice.
            if event.cursor > self._last:
                self._last = event.cursor
                self._apply(self._rows, event.stream, event.message, event.tenant)

    def _apply(self, rows: _Rows, stream: str, message: Message, user: str) -> None:
        workflow = stream.removeprefix("workflow-")
        match message:
            case WorkflowSubmitted(jobs=jobs) | JobsAdded(jobs=jobs):
                self._jobs |= {spec.job_id: ((workflow, spec.branch), user) for spec in jobs}
            case SeatGranted(user_id=user_id, seat=seat):
                if user_id in rows.seats or seat in rows.seats.values():
                    raise Conflict("seats")
                rows.seats[user_id] = seat
            case SeatReleased(user_id=user_id):
                rows.seats.pop(user_id, None)
            case JobStarted(job_id=job_id, slot=slot):
                branch, owner = self._jobs[job_id]
                for other_slot, other_branch, _ in rows.running.values():
                    if other_slot == slot:
                        raise Conflict("jobs_one_per_slot")
                    if other_branch == branch:
                        raise Conflict("jobs_one_running_per_branch")
                rows.running[job_id] = (slot, branch, owner)
            case _ if isinstance(message, ENDS_RUN):
                rows.running.pop(message.job_id, None)
