"""The past, for those whose it is: a workflow as it was, its events, the timeline of a job.

Promises: the same history that `microtome.replay` tells, told from the user's own events alone, so that nothing of
others can show: no places in line, no numbers of running jobs, no seats but one's own.
Refuses: foreign ids, as `NotFound`; a moment before the workflow was there, as `NotFound` too.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from heapq import merge
from operator import attrgetter
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request, Response

from microtome.contracts.messages import JobsAdded
from microtome.domain import cluster as clusters
from microtome.domain import workflow as workflows
from microtome.domain.cluster import Cluster
from microtome.domain.limits import Limits
from microtome.domain.scheduling import waiting_in
from microtome.domain.state import Workflow
from microtome.errors import NotFound
from microtome.eventlog.log import START, Cursor, StoredEvent
from microtome.readmodels.rows import WorkflowRecord
from microtome.replay import timeline_document
from microtome.replay.moment import NOW, Moment, Window
from microtome.replay.source import DatabaseHistory
from microtome.replay.timeline import Tracker, without_others
from microtome.workflows import stream_of
from services.gateway import history_views, present
from services.gateway.context import Context, Gateway
from services.gateway.etag import NOT_MODIFIED, Rendered, answer
from services.gateway.facts import Facts, Interest
from services.gateway.user import User

router = APIRouter(tags=["history"])

SEATS = "seats"
_CURSOR = attrgetter("cursor")

At = Annotated[
    str | None,
    Query(
        max_length=64,
        description="As of when: a place in the log (`xid:position`, as events and answers carry it) or a time "
        "(RFC 3339; in a query `+` is written `%2B`). Absent: now.",
    ),
]


async def workflow_at(gateway: Gateway, user: str, workflow_id: str, at: str) -> Rendered:
    """Return the `views.Workflow` as it was. Raises `NotFound`, `Busy`, `InvalidRequest` when `at` is no moment."""
    moment = Moment.parse(at)
    await gateway.showing.check_owner(user, workflow_id)
    events = await gateway.log.read_stream(stream_of(workflow_id))
    told = await _with_seats(gateway, user, events, moment)
    return await gateway.past.told(lambda: Rendered.of(_as_it_was(told, moment)))


def _as_it_was(events: Iterable[StoredEvent], moment: Moment) -> dict[str, Any]:
    window, cluster, added_at = Window(moment), Cluster(), dict[str, datetime]()
    state: Workflow | None = None
    last: StoredEvent | None = None
    for event in events:
        if not window.admits(event):
            continue
        cluster = clusters.evolve(cluster, event.message, event.at, event.stream)
        if event.stream != SEATS:
            state, last = workflows.evolve(state, event.message, event.at), event
        if isinstance(event.message, JobsAdded):
            added_at.update((job.job_id, event.at) for job in event.message.jobs)
    if state is None or last is None:
        raise NotFound(f"The workflow was not there yet ({moment}).")
    now = moment.time or last.at
    record = WorkflowRecord(state=state, version=last.version, cursor=last.cursor, added_at=added_at)
    return present.workflow(record, _waiting(cluster, state, now), {})


def _waiting(cluster: Cluster, state: Workflow, now: datetime) -> dict[str, Any]:
    found = waiting_in(cluster, state, Limits(), now)
    return {job_id: without_others(reason) for job_id, reason in found.items()}


async def _with_seats(
    gateway: Gateway, user: str, events: Iterable[StoredEvent], moment: Moment
) -> Iterable[StoredEvent]:
    """The events of a workflow together with those of its user's seat, in log order, as far as the moment needs."""
    events = tuple(events)
    if not events:
        return ()
    history = DatabaseHistory(gateway.database)
    first = events[0].cursor
    seats = list(await history.last(1, first, streams=[SEATS], tenants=[user]))
    async for event in history.events(first, streams=[SEATS], tenants=[user]):
        if moment.over(event):
            break
        seats.append(event)
    return merge(seats, events, key=_CURSOR)


@router.get(
    "/workflows/{workflow_id}/events",
    response_model=history_views.PastEventPage,
    responses=NOT_MODIFIED,
    summary="What happened to a workflow",
)
async def events(
    workflow_id: str,
    user: User,
    gateway: Context,
    request: Request,
    after: Annotated[
        str | None, Query(max_length=41, description="Only what follows this place in the log, `xid:position`.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="How many at most.")] = 200,
) -> Response:
    """List the facts about a workflow in the order of the log; they never change."""
    start = START if after is None else Cursor.parse(after)
    await gateway.showing.check_owner(user, workflow_id)
    end, more, found = await Facts(gateway.database).missed(Interest(user, workflow_id), start, limit)
    items = [_plain(fact.message) for fact in found]
    following = str(end) if more else None
    headers = {}
    if following is not None:
        url = request.url.include_query_params(after=following)
        headers["Link"] = f'<{url.path}?{url.query}>; rel="next"'
    return answer(request, Rendered.of({"items": items, "next_cursor": following}), headers)


def _plain(message: bytes) -> dict[str, Any]:
    event: dict[str, Any] = orjson.loads(message)
    del event["kind"]
    return event


@router.get(
    "/jobs/{job_id}/timeline", response_model=history_views.Timeline, summary="What a job waited for, where it ran"
)
async def timeline(job_id: str, user: User, gateway: Context, request: Request) -> Response:
    """Tell the life of a job: each phase of waiting with its reason, each attempt, the stages of the last one."""
    workflow_id = await gateway.showing.workflow_id_of(user, job_id)
    stored = await gateway.log.read_stream(stream_of(workflow_id))
    ended = await gateway.past.told(lambda: _ended(stored, job_id))
    # Of what ended, what came later says nothing more.
    until = Moment(cursor=stored[-1].cursor) if ended else NOW
    now = stored[-1].at if ended else datetime.now(UTC)
    events = await _with_seats(gateway, user, stored, until)
    tracker = Tracker(workflow_id, job_id, Limits(), own=True)
    return answer(request, await gateway.past.told(lambda: _life(tracker, events, until, now)))


def _ended(stored: Iterable[StoredEvent], job_id: str) -> bool:
    state: Workflow | None = None
    for event in stored:
        state = workflows.evolve(state, event.message, event.at)
    if state is None or job_id not in state.jobs:
        raise NotFound(f"There is no job {job_id[:80]} of yours.")
    return state.jobs[job_id].status.terminal


def _life(tracker: Tracker, events: Iterable[StoredEvent], until: Moment, now: datetime) -> Rendered:
    for event in events:
        if not until.over(event):
            tracker.take(event)
    told = tracker.finish(now)
    if told is None:
        raise NotFound(f"There is no job {tracker.job_id[:80]} of yours.")
    return Rendered.of(timeline_document.document(told))
