"""The cluster as bytes, so that a process need not fold the whole log to begin.

Promises: `load(dump(cluster)) == cluster`, orders included, and what is folded from there on is what is folded from the
beginning; the same history gives the same bytes in every process.
Refuses, with InvalidRequest: bytes of another format. A snapshot is a cache; whoever cannot read one folds the log.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from microtome.contracts.codec import from_json, to_json
from microtome.contracts.messages import BranchPolicy, JobPlanned, JobResult, JobSpec, JobType
from microtome.domain.cluster import Cluster, Running, Seat
from microtome.domain.persistent import PersistentMap
from microtome.domain.rates import Rates
from microtome.domain.standing import restored
from microtome.domain.state import Job, JobError, JobStatus, Workflow
from microtome.errors import InvalidRequest

FORMAT = 1
"""The shape of the bytes; it rises whenever what a fold keeps is changed."""
KEPT_AS = "scheduler"
"""The name under which the scheduler keeps its cluster, for the next one and for those who only look at it."""
KEPT_FORMAT = 1_000 * FORMAT + 1
"""The shape of what `pack` returns."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_STATUSES = tuple(JobStatus)
_PLACE = {status: place for place, status in enumerate(_STATUSES)}


def dump(cluster: Cluster) -> bytes:
    """Return the cluster as bytes."""
    data = {
        "format": FORMAT,
        "moment": cluster.moment,
        "workflows": [_from_workflow(workflow) for workflow in cluster.workflows.values()],
        "live": cluster.live,
        "line": cluster.line,
        "seats": {user: [seat.number, _since(seat.granted_at), seat.tiles] for user, seat in cluster.seats.items()},
        "running": [[running.workflow_id, running.job_id, running.moment] for running in cluster.running.values()],
        "retries": list(cluster.retries),
        "last_started": cluster.last_started,
        "rates": {str(int(kind)): seconds for kind, seconds in cluster.rates.seconds.items()},
    }
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"), default=dict).encode()


def pack(own: bytes, cluster: Cluster) -> bytes:
    """Return the cluster as it is kept, behind one line of the keeper's own."""
    return zlib.compress(own + b"\n" + dump(cluster), level=1)


def unpack(data: bytes) -> tuple[bytes, bytes]:
    """Return the keeper's own line, and what `load` takes. Raises `InvalidRequest`."""
    try:
        own, _, rest = zlib.decompress(data).partition(b"\n")
    except zlib.error as error:
        raise InvalidRequest(f"These {len(data)} bytes are no kept snapshot: {error}") from error
    return own, rest


def load(data: bytes) -> Cluster:
    """Return the cluster that the bytes say; raises InvalidRequest for those of another format."""
    try:
        read = json.loads(data)
        found = read.get("format")
    except (ValueError, AttributeError) as error:
        raise InvalidRequest(f"These {len(data)} bytes are no snapshot: {error}") from error
    if found != FORMAT:
        raise InvalidRequest(f"This snapshot has format {found!r}; this program reads {FORMAT}.")
    try:
        return _cluster(read)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise InvalidRequest(f"These {len(data)} bytes are no snapshot: {error!r}") from error


def _cluster(read: Mapping[str, Any]) -> Cluster:
    workflows = [_to_workflow(each) for each in read["workflows"]]
    known = PersistentMap.of((workflow.workflow_id, workflow) for workflow in workflows)
    pending = {job.job_id: job.not_before for workflow in workflows for job in workflow.jobs.values()}
    return Cluster(
        moment=read["moment"],
        workflows=known,
        live=read["live"],
        line=read["line"],
        seats={user: Seat(number, _at(granted), tiles) for user, (number, granted, tiles) in read["seats"].items()},
        running={each[1]: _running(known[each[0]], each[1], each[2]) for each in read["running"]},
        retries={job_id: at for job_id in read["retries"] if (at := pending[job_id]) is not None},
        last_started=read["last_started"],
        rates=Rates({JobType(int(kind)): seconds for kind, seconds in read["rates"].items()}),
    )


def _running(workflow: Workflow, job_id: str, moment: int) -> Running:
    job = workflow.jobs[job_id]
    if job.slot is None or job.started_at is None:
        raise ValueError(f"job {job_id} does not run")
    return Running(
        user_id=workflow.user_id,
        workflow_id=workflow.workflow_id,
        job_id=job_id,
        attempt=job.attempt,
        slot=job.slot,
        tiles=job.tiles,
        started_at=job.started_at,
        moment=moment,
    )


def _from_workflow(workflow: Workflow) -> list[Any]:
    return [
        workflow.workflow_id,
        workflow.user_id,
        workflow.name,
        _since(workflow.submitted_at),
        workflow.submitted,
        {branch: int(policy) for branch, policy in workflow.policies.items()},
        [_from_job(job) for job in workflow.jobs.values()],
    ]


def _to_workflow(read: list[Any]) -> Workflow:
    workflow_id, user_id, name, submitted_at, submitted, policies, jobs = read
    return restored(
        workflow_id=workflow_id,
        user_id=user_id,
        name=name,
        submitted_at=_at(submitted_at),
        submitted=submitted,
        policies={branch: BranchPolicy(policy) for branch, policy in policies.items()},
        jobs=[_to_job(job, order) for order, job in enumerate(jobs)],
    )


def _from_job(job: Job) -> list[Any]:
    return [to_json(job.spec), job.turn, _PLACE[job.status], dict(_rest(job))]


def _rest(job: Job) -> Iterator[tuple[str, Any]]:
    if job.slot is not None:
        yield "slot", job.slot
    for name in ("draft", "attempt", "failures", "preemptions", "cause_job_id"):
        value = getattr(job, name)
        if value:
            yield name, value
    for name in ("not_before", "started_at", "finished_at", "artifacts_deleted_at"):
        at = getattr(job, name)
        if at is not None:
            yield name, _since(at)
    if job.error is not None:
        yield "error", [job.error.code, job.error.detail, job.error.transient]
    if job.result is not None:
        yield "result", to_json(job.result)
    if job.planned is not None:
        yield "planned", to_json(job.planned)
    if job.ran:
        yield "ran", job.ran // _MICROSECOND


def _to_job(read: list[Any], order: int) -> Job:
    spec, turn, status, rest = read
    for name in ("not_before", "started_at", "finished_at", "artifacts_deleted_at"):
        if name in rest:
            rest[name] = _at(rest[name])
    if "error" in rest:
        code, detail, transient = rest["error"]
        rest["error"] = JobError(code=code, detail=detail, transient=transient)
    if "result" in rest:
        rest["result"] = from_json(JobResult, rest["result"])
    if "planned" in rest:
        rest["planned"] = from_json(JobPlanned, rest["planned"])
    if "ran" in rest:
        rest["ran"] = rest["ran"] * _MICROSECOND
    return Job(spec=from_json(JobSpec, spec), order=order, turn=turn, status=_STATUSES[status], **rest)


def _since(at: datetime) -> int:
    return (at - _EPOCH) // _MICROSECOND


@lru_cache(maxsize=1024)
def _at(microseconds: int) -> datetime:
    return _EPOCH + microseconds * _MICROSECOND
