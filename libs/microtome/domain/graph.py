"""The graph of a submitted workflow: branches, dependencies, and whether they can ever be walked.

Promises: a graph that passed `validate` has an order in which every job can run; messages name the jobs by their keys.
Refuses, with InvalidWorkflow: no jobs or too many, too many dependencies, bad names, keys twice, unknown dependencies,
and cycles, including those that a dependency makes together with the order inside a branch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from microtome.contracts.messages import Branch, JobSpec, JobType
from microtome.errors import InvalidWorkflow

MAX_JOBS = 1_000
# All dependencies of a workflow together. The submission is one event, and an event has to fit on the bus.
MAX_DEPENDENCIES = 10_000
MAX_NAME_LENGTH = 200
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class Graph:
    """Which job comes when. A set of jobs is an integer: the job with turn n is its bit n."""

    turns: tuple[str, ...]
    """Ids of the jobs by turn; nobody has the turn that a draft gave up when it was started."""
    branches: Mapping[str, int]
    """The jobs of each branch; the lowest bit goes first."""
    needs: tuple[int, ...]
    """The jobs that the job with this turn depends on."""
    feeds: tuple[int, ...]
    """The jobs that depend on the job with this turn."""


def build(jobs: Iterable[JobSpec]) -> Graph:
    """Return the graph of valid jobs, whose turns are their places."""
    return extended(Graph((), {}, (), ()), jobs)


def restored(jobs: Sequence[tuple[JobSpec, int]]) -> Graph:
    """Return the graph of valid jobs with their turns."""
    last = max((turn for _, turn in jobs), default=-1)
    empty = Graph(("",) * (last + 1), {}, (0,) * (last + 1), (0,) * (last + 1))
    return _placed(empty, jobs)


def extended(graph: Graph, jobs: Iterable[JobSpec]) -> Graph:
    """Return the graph with more jobs, each after all that are there. Dependencies nobody knows count for nothing."""
    more = [(job, turn) for turn, job in enumerate(jobs, start=len(graph.turns))]
    none = (0,) * len(more)
    grown = Graph((*graph.turns, *("",) * len(more)), graph.branches, graph.needs + none, graph.feeds + none)
    return _placed(grown, more)


def _placed(graph: Graph, jobs: Sequence[tuple[JobSpec, int]]) -> Graph:
    turns, branches, needs, feeds = [*graph.turns], {**graph.branches}, [*graph.needs], [*graph.feeds]
    for job, turn in jobs:
        turns[turn] = job.job_id
        branches[job.branch] = branches.get(job.branch, 0) | 1 << turn
    if any(job.depends_on for job, _ in jobs):
        turn_of = {job_id: turn for turn, job_id in enumerate(turns)}
        for job, turn in jobs:
            for dependency in job.depends_on:
                if (needed := turn_of.get(dependency)) is not None:
                    needs[turn] |= 1 << needed
                    feeds[needed] |= 1 << turn
    return Graph(tuple(turns), branches, tuple(needs), tuple(feeds))


def moved_to_the_end(graph: Graph, job: JobSpec, turn: int) -> Graph:
    """Return the graph in which a job goes from its turn to the next one that nobody had."""
    last = len(graph.turns)
    turns, needs, feeds = [*graph.turns, job.job_id], [*graph.needs, 0], [*graph.feeds, 0]
    turns[turn] = ""
    for other in members(graph.needs[turn]):
        feeds[other] ^= 1 << turn | 1 << last
    for other in members(graph.feeds[turn]):
        needs[other] ^= 1 << turn | 1 << last
    needs[last], needs[turn] = needs[turn], 0
    feeds[last], feeds[turn] = feeds[turn], 0
    branches = {**graph.branches, job.branch: graph.branches[job.branch] ^ (1 << turn | 1 << last)}
    return Graph(tuple(turns), branches, tuple(needs), tuple(feeds))


def members(jobs: int) -> Iterator[int]:
    """Yield the turns in a set of jobs, the lowest first."""
    while jobs:
        lowest = jobs & -jobs
        yield lowest.bit_length() - 1
        jobs ^= lowest


def validate(name: str, jobs: Sequence[JobSpec], branches: Sequence[Branch] = ()) -> None:
    """Raise InvalidWorkflow, naming the jobs at fault, unless every job could run one day."""
    if len(name) > MAX_NAME_LENGTH:
        raise InvalidWorkflow(f"The name of a workflow has at most {MAX_NAME_LENGTH} characters.")
    if not jobs:
        raise InvalidWorkflow("A workflow needs at least one job.")
    validate_addition((), jobs, branches)


def validate_addition(
    known: Sequence[tuple[JobSpec, bool]], jobs: Sequence[JobSpec], branches: Sequence[Branch] = ()
) -> None:
    """Raise InvalidWorkflow unless `jobs` can come after those that a workflow has.

    `known`: in the order of their turns, each with whether it is a draft.
    """
    every = [*(job for job, _ in known), *jobs]
    if not jobs:
        raise InvalidWorkflow("There is no job to add.")
    if len(every) > MAX_JOBS:
        raise InvalidWorkflow(f"A workflow has at most {MAX_JOBS} jobs; this one has {len(every)}.")
    dependencies = sum(len(job.depends_on) for job in every)
    if dependencies > MAX_DEPENDENCIES:
        raise InvalidWorkflow(
            f"A workflow has at most {MAX_DEPENDENCIES} dependencies; this one has {dependencies}. "
            "Jobs of one branch follow each other without any."
        )
    for job in jobs:
        _check_job(job)
    _check_unique(every)
    _check_branches(jobs, branches)
    by_id = {job.job_id: job for job in every}
    for job in jobs:
        for dependency in job.depends_on:
            if dependency not in by_id:
                raise InvalidWorkflow(f"Job {job.key!r} depends on {dependency!r}, which is no job of this workflow.")
    _check_order(by_id, [*known, *((job, job.draft) for job in jobs)])


def waits_for(line: Iterable[tuple[JobSpec, bool]]) -> dict[str, list[str]]:
    """Return what each job waits for, directly: its dependencies and the job before it in its branch.

    `line`: jobs in the order of their turns, each with whether it is a draft. A draft comes after every other job of
    its branch, for it gets its turn when it is started; among drafts there is no order yet.
    """
    jobs = [*line]
    found = {job.job_id: list(job.depends_on) for job, _ in jobs}
    last: dict[str, str] = {}
    for job, draft in jobs:
        if not draft:
            if job.branch in last:
                found[job.job_id].append(last[job.branch])
            last[job.branch] = job.job_id
    for job, draft in jobs:
        if draft and job.branch in last:
            found[job.job_id].append(last[job.branch])
    return found


def in_order(waiting: Mapping[str, Sequence[str]], starts: Iterable[str]) -> Iterator[str]:
    """Yield `starts` and all that they wait for, each after what it waits for itself; there must be no cycle."""
    seen: set[str] = set()
    for start in starts:
        path = [] if start in seen else [(start, iter(waiting[start]))]
        seen.add(start)
        while path:
            job_id, rest = path[-1]
            following = next((other for other in rest if other in waiting and other not in seen), None)
            if following is None:
                path.pop()
                yield job_id
            else:
                seen.add(following)
                path.append((following, iter(waiting[following])))


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


def _check_branches(jobs: Sequence[JobSpec], branches: Sequence[Branch]) -> None:
    used = {job.branch for job in jobs}
    named: set[str] = set()
    for branch in branches:
        if branch.name in named:
            raise InvalidWorkflow(f"Branch {branch.name[:80]!r} is described more than once.")
        if branch.name not in used:
            raise InvalidWorkflow(f"Branch {branch.name[:80]!r} has a policy and no jobs.")
        named.add(branch.name)


def _check_order(jobs: Mapping[str, JobSpec], line: Sequence[tuple[JobSpec, bool]]) -> None:
    cycle = _find_cycle({job_id: list(job.depends_on) for job_id, job in jobs.items()})
    if cycle:
        path = " → ".join(repr(jobs[job_id].key) for job_id in cycle)
        raise InvalidWorkflow(f"The dependencies form a cycle: {path}.")
    cycle = _find_cycle(waits_for(line))
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
