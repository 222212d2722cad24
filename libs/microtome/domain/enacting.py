"""From decisions of the scheduler to the events that make them so.

Promises: applied in their order, at no position between them more users are active, more jobs run, or two jobs hold
one slot than the limits allow: seats first, then slots that are given up, then starts.
Refuses: to append. Events of one stream are to be appended under the version that the cluster knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from microtome.contracts.messages import Event, SeatGranted, SeatReleased
from microtome.domain.cluster import STREAM_PREFIX, Cluster
from microtome.domain.commands import Preempt, Start
from microtome.domain.decisions import decide
from microtome.domain.scheduling import Decision, GrantSeat, PreemptJob, ReleaseSeat

SEATS = "seats"


@dataclass(frozen=True, slots=True)
class Fact:
    """An event about to be appended: to which stream, and whose it is."""

    stream: str
    user_id: str
    event: Event


def enacted(cluster: Cluster, decisions: Iterable[Decision]) -> tuple[Fact, ...]:
    """Return the events of decisions made on this very cluster, in the order in which they are to be appended."""
    decisions = tuple(decisions)
    return (
        *(fact for decision in decisions for fact in _seat(decision)),
        *(fact for decision in decisions if isinstance(decision, PreemptJob) for fact in _job(cluster, decision)),
        *(fact for decision in decisions if not isinstance(decision, PreemptJob) for fact in _job(cluster, decision)),
    )


def _seat(decision: Decision) -> Iterator[Fact]:
    match decision:
        case ReleaseSeat(user_id=user, seat=seat):
            yield Fact(SEATS, user, SeatReleased(user_id=user, seat=seat))
        case GrantSeat(user_id=user, seat=seat):
            yield Fact(SEATS, user, SeatGranted(user_id=user, seat=seat))


def _job(cluster: Cluster, decision: Decision) -> Iterator[Fact]:
    if isinstance(decision, ReleaseSeat | GrantSeat):
        return
    workflow = cluster.workflows[decision.workflow_id]
    if isinstance(decision, PreemptJob):
        events = decide(workflow, Preempt(decision.job_id, decision.attempt))
    else:
        events = decide(workflow, Start(decision.job_id, decision.slot))
    for event in events:
        yield Fact(STREAM_PREFIX + decision.workflow_id, workflow.user_id, event)
