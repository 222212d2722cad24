"""The graph of a submitted workflow: branches, dependencies, and whether they can ever be walked.

Promises: a graph that passed `validate` has an order in which every job can run; messages name the jobs by their keys.
Refuses, with InvalidWorkflow: no jobs or too many, too many dependencies, bad names, keys twice, unknown dependencies,
and cycles, including those that a dependency makes together with the order inside a branch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from microtome.contracts.messages import JobSpec, JobType
from microtome.errors import InvalidWorkflow

MAX_JOBS = 1_000
# All dependencies of a workflow together. The submission is one event, and an event has to fit on the bus.
MAX_DEPENDENCIES = 10_000
MAX_NAME_LENGTH = 200
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class Graph:
    """Which job comes when, by job id; built once per workflow and shared by all its states."""

    branches: Mapping[str, tuple[str, ...]]
    """Jobs of each branch in their order."""
    dependents: Mapping[str, tuple[str, ...]]
    """Jobs that depend on this one."""
    place: Mapping[str, int]
    """Where in its branch a job stands, from 0."""


def build(jobs: Iterable[JobSpec]) -> Graph:
    """Return the graph of valid jobs."""
    branches: dict[str, list[str]] = {}
    dependents: dict[str, list[str]] = {}
    for job in jobs:
        branches.setdefault(job.branch, []).append(job.job_id)
        for dependency in dict.fromkeys(job.depends_on):
            dependents.setdefault(dependency, []).append(job.job_id)
    return Graph(
        branches={name: tuple(ids) for name, ids in branches.items()},
        dependents={job_id: tuple(ids) for job_id, ids in dependents.items()},
        place={job_id: place for ids in branches.values() for place, job_id in enumerate(ids)},
    )


def validate(name: str, jobs: Sequence[JobSpec]) -> None:
    """Raise InvalidWorkflow, naming the jobs at fault, unless every job could run one day."""
    if len(name) > MAX_NAME_LENGTH:
        raise InvalidWorkflow(f"The name of a workflow has at most {MAX_NAME_LENGTH} characters.")
    if not jobs:
        raise InvalidWorkflow("A workflow needs at least one job.")
    if len(jobs) > MAX_JOBS:
        raise InvalidWorkflow(f"A workflow has at most {MAX_JOBS} jobs; this one has {len(jobs)}.")
    dependencies = sum(len(job.depends_on) for job in jobs)
    if dependencies > MAX_DEPENDENCIES:
        raise InvalidWorkflow(
            f"A workflow has at most {MAX_DEPENDENCIES} dependencies; this one has {dependencies}. "
            "Jobs of one branch follow each other without any."
        )
    for job in jobs:
        _check_job(job)
    _check_unique(jobs)
    by_id = {job.job_id: job for job in jobs}
    for job in jobs:
        for dependency in job.depends_on:
            if dependency not in by_id:
                raise InvalidWorkflow(f"Job {job.key!r} depends on {dependency!r}, which is no job of this workflow.")
    _check_order(by_id)


def _check_job(job: JobSpec) -> None:
    for what, name in (("key", job.key), ("branch", job.branch)):
        if not _NAME.fullmatch(name):
            raise InvalidWorkflow(
                f"Job {job.key[:80]!r}: the {what} {name[:80]!r} must be 1 to 64 letters, digits, '_', '.' or '-'."
            )
    if job.type is JobType.UNSPECIFIED:
        raise InvalidWorkflow(f"Job {job.key!r} has no type.")
    if not job.job_id or not job.slide_id:
        raise InvalidWorkflow(f"Job {job.key!r} needs an id and a slide.")


def _check_unique(jobs: Sequence[JobSpec]) -> None:
    keys: set[str] = set()
    ids: set[str] = set()
    for job in jobs:
        if job.key in keys:
            raise InvalidWorkflow(f"The key {job.key!r} is given to more than one job.")
        if job.job_id in ids:
            raise InvalidWorkflow(f"Job {job.key!r} has the id of another job.")
        keys.add(job.key)
        ids.add(job.job_id)


def _check_order(jobs: Mapping[str, JobSpec]) -> None:
    waits_for: dict[str, list[str]] = {job_id: list(job.depends_on) for job_id, job in jobs.items()}
    cycle = _find_cycle(waits_for)
    if cycle:
        path = " → ".join(repr(jobs[job_id].key) for job_id in cycle)
        raise InvalidWorkflow(f"The dependencies form a cycle: {path}.")
    for ids in build(jobs.values()).branches.values():
        for earlier, later in pairwise(ids):
            waits_for[later].append(earlier)
    cycle = _find_cycle(waits_for)
    if cycle:
        steps = "; ".join(_reason(jobs[one], jobs[other]) for one, other in pairwise(cycle))
        raise InvalidWorkflow(
            f"A dependency contradicts the order of a branch, so these jobs would wait for each other forever: {steps}."
        )


def _reason(job: JobSpec, awaited: JobSpec) -> str:
    if awaited.job_id in job.depends_on:
        return f"{job.key!r} depends on {awaited.key!r}"
    return f"{job.key!r} comes after {awaited.key!r} in branch {job.branch!r}"


def _find_cycle(waits_for: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a cycle, its first node repeated at the end, or nothing. Iterative: a chain may be 1,000 jobs deep."""
    finished: set[str] = set()
    for start in waits_for:
        if start in finished:
            continue
        path = [start]
        on_path = {start}
        pending = [iter(waits_for[start])]
        while path:
            following = next(pending[-1], None)
            if following is None:
                pending.pop()
                on_path.discard(path[-1])
                finished.add(path.pop())
            elif following in on_path:
                return [*path[path.index(following) :], following]
            elif following not in finished:
                path.append(following)
                on_path.add(following)
                pending.append(iter(waits_for[following]))
    return []
