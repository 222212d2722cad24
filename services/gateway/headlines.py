"""What tells whether a workflow still looks as it did: one small look for many workflows at once.

Promises: a headline is never older than the question; the same headline and the same line of who waits give
the same view. Refuses: to be the view itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from microtome.errors import NotFound
from microtome.eventlog.database import Database
from microtome.leases.lease import Progress, Standing
from services.gateway.batching import Batches

# The partial index of running jobs makes the inner look cheap, however many jobs a workflow has.
_HEADLINES = """
select w.workflow_id, w.user_id, w.version,
       (select array_agg(row(l.job_id, l.attempt, l.stage, l.owner, l.tiles_total, l.tiles_processed,
                             l.tiles_skipped, l.cells) order by l.job_id)
        from jobs j join leases l on l.job_id = j.job_id and l.attempt = j.attempt
        where j.workflow_id = w.workflow_id and j.status = 'RUNNING') as standings
from workflows w where w.workflow_id = any($1::text[])
"""
_PARENTS = "select job_id, workflow_id, user_id from jobs where job_id = any($1::text[])"

_Rows = tuple[tuple[Any, ...], ...]


@dataclass(frozen=True, slots=True)
class Headline:
    """Whose a workflow is, its version, and how far its running jobs are (rows of leases, to be compared)."""

    user_id: str
    version: int
    rows: _Rows = ()

    def standings(self) -> dict[str, Standing]:
        """Where running jobs are, by job id."""
        return {row[0]: _standing(row) for row in self.rows}


@dataclass(frozen=True, slots=True)
class Parent:
    """The workflow of a job, and whose it is; neither ever changes."""

    workflow_id: str
    user_id: str


class Headlines:
    """Looks at the database, once for everybody who asks at the moment."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._headlines: Batches[str, Headline] = Batches(self.of_all)
        self._parents: Batches[str, Parent] = Batches(self._fetch_parents)

    async def of(self, user_id: str, workflow_id: str, what: str | None = None) -> Headline:
        """The headline of a workflow of the user. Raises `NotFound`; `what` names the thing then."""
        headline = await self._headlines.ask(workflow_id)
        if headline is None or headline.user_id != user_id:
            raise not_found(what or f"workflow {workflow_id[:80]}")
        return headline

    async def of_all(self, workflow_ids: Sequence[str]) -> Mapping[str, Headline]:
        """The headlines of these workflows, whoever's they are."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(_HEADLINES, workflow_ids)
        return {
            row["workflow_id"]: Headline(row["user_id"], row["version"], tuple(map(tuple, row["standings"] or ())))
            for row in rows
        }

    async def parent_of(self, job_id: str) -> Parent | None:
        """The workflow of a job, whoever's it is."""
        return await self._parents.ask(job_id)

    async def _fetch_parents(self, job_ids: Sequence[str]) -> Mapping[str, Parent]:
        async with self._database.connection() as connection:
            rows = await connection.fetch(_PARENTS, job_ids)
        return {row["job_id"]: Parent(row["workflow_id"], row["user_id"]) for row in rows}


def _standing(row: Sequence[Any]) -> Standing:
    _, attempt, stage, owner, total, processed, skipped, cells = row
    progress = Progress(tiles_total=total, tiles_processed=processed, tiles_skipped=skipped, cells=cells)
    return Standing(attempt=attempt, stage=stage, owner=owner, progress=progress)


def not_found(what: str) -> NotFound:
    """The error for what does not exist or is somebody else's; which of both stays unsaid."""
    return NotFound(f"There is no {what} of yours.")
