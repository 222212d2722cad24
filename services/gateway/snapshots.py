"""Snapshots for live clients: made once for all who look at the same thing.

Promises: a snapshot holds everything that was stored before it was asked for. First snapshots are made at once, a few
at a time; renewals one after the other with a rest in between, so that however many clients watch, showing what
changed takes at most a part of this process's time. Facts do not wait for any of this.
Refuses: to remember what it has made.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from dataclasses import dataclass

import orjson

from microtome.eventlog.database import Database
from microtome.eventlog.log import Cursor
from services.gateway.facts import Interest
from services.gateway.live_messages import Mine, WorkflowBrief
from services.gateway.places import Places
from services.gateway.showing import Showing

_AT_ONCE = 4
# A renewal is followed by a rest so many times as long as it took.
_REST = 2.0
_BRIEFS = 100
_FINISHED = frozenset({"SUCCEEDED", "FAILED", "CANCELLED", "SKIPPED"})
_MINE = """
select workflow_id, name, created_at, xid, position,
       (select jsonb_object_agg(status, jobs) from (
            select status, count(*) as jobs from jobs where jobs.workflow_id = newest.workflow_id group by status
        ) as counted) as jobs
from (
    select * from workflows where user_id = $1 order by created_at desc, workflow_id desc limit $2
) as newest
order by created_at desc, workflow_id desc
"""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a client is shown. `name` and `body` are a member of the message; the position is the client's."""

    name: str
    body: bytes
    # All facts up to here are in it; None: up to wherever the log was when it was asked for.
    position: Cursor | None
    # Whether nothing of it will change but by new facts.
    finished: bool

    @property
    def digest(self) -> bytes:
        """Equal for equal snapshots."""
        return hashlib.blake2b(self.body, digest_size=16).digest()


class Snapshots:
    """Makes snapshots."""

    def __init__(self, database: Database, showing: Showing, places: Places) -> None:
        self._database = database
        self._showing = showing
        self._places = places
        self._first = asyncio.Semaphore(_AT_ONCE)
        self._renewing = asyncio.Lock()
        self._rested_at = 0.0
        # Asked for and not begun: whoever asks now is served by it too.
        self._waiting: dict[Interest, asyncio.Task[Snapshot]] = {}

    async def first(self, interest: Interest) -> Snapshot:
        """A snapshot at once. Raises `NotFound`, `Unavailable`."""
        async with self._first:
            return await self._make(interest)

    async def renewed(self, interest: Interest) -> Snapshot:
        """A snapshot when there is time for it. Raises `NotFound`, `Unavailable`."""
        task = self._waiting.get(interest)
        if task is None:
            task = self._waiting[interest] = asyncio.create_task(self._renew(interest))
        # One who leaves must not take it away from the others.
        return await asyncio.shield(task)

    async def _renew(self, interest: Interest) -> Snapshot:
        try:
            async with self._renewing:
                await asyncio.sleep(self._rested_at - time.monotonic())
                del self._waiting[interest]
                began = time.monotonic()
                try:
                    return await self._make(interest)
                finally:
                    now = time.monotonic()
                    self._rested_at = now + _REST * (now - began)
        finally:
            if self._waiting.get(interest) is asyncio.current_task():
                del self._waiting[interest]

    async def _make(self, interest: Interest) -> Snapshot:
        if interest.workflow_id is None:
            return await self._mine(interest.user_id)
        body = (await self._showing.workflow(interest.user_id, interest.workflow_id)).rendered.body
        workflow = orjson.loads(body)
        position = Cursor.parse(workflow["position"])
        if interest.job_id is None:
            return Snapshot("workflow", body, position, all(job["status"] in _FINISHED for job in workflow["jobs"]))
        # Cut out of the workflow, so that its position is that of the job as well.
        job = next(job for job in workflow["jobs"] if job["id"] == interest.job_id)
        return Snapshot("job", orjson.dumps(job), position, job["status"] in _FINISHED)

    async def _mine(self, user_id: str) -> Snapshot:
        async with self._database.connection() as connection:
            rows = await connection.fetch(_MINE, user_id, _BRIEFS + 1)
        line = self._places.line()
        mine = Mine(
            user=user_id,
            active=user_id in self._places.cluster.seats,
            place_in_line=line.index(user_id) + 1 if user_id in line else None,
            workflows=[
                WorkflowBrief(
                    id=row["workflow_id"],
                    name=row["name"],
                    created_at=row["created_at"],
                    position=str(Cursor(row["xid"], row["position"])),
                    jobs=row["jobs"] or {},
                )
                for row in rows[:_BRIEFS]
            ],
            more=len(rows) > _BRIEFS,
        )
        return Snapshot("me", mine.model_dump_json().encode(), None, finished=False)
