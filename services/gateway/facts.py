"""Facts as live clients are told them, straight from the log.

Promises: one reading order, that of the log's cursors, never past a transaction that is still running: what was read
after a cursor once is all that there ever will be before the last cursor read.
Refuses: facts of other users; and to decode what nobody listens to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg
import orjson

from microtome.eventlog.database import Database
from microtome.eventlog.log import START, Cursor
from microtome.eventlog.upcast import UPCASTERS

_COLUMNS = "xid, position, stream, tenant, type, schema_version, data, at"
_READABLE = "(xid, position) > ($1::xid8, $2::bigint) and xid < pg_snapshot_xmin(pg_current_snapshot())"
_ALL = f"select {_COLUMNS} from events where {_READABLE} order by xid, position limit $3"  # noqa: S608 - no input
# Within a stream the order of versions is that of cursors, and there is an index for it.
_OF_STREAM = f"""
select {_COLUMNS} from events where {_READABLE} and stream = $4 and tenant = $5 order by version limit $3
"""  # noqa: S608 - no input
_OF_USER = f"""
select {_COLUMNS} from events where {_READABLE} and tenant = $4 order by xid, position limit $3
"""  # noqa: S608 - no input
_HEAD = """
select xid, position from events where xid < pg_snapshot_xmin(pg_current_snapshot())
order by xid desc, position desc limit 1
"""
_KNOWN = "select exists (select from events where (xid, position) >= ($1::xid8, $2::bigint))"

Topic = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Interest:
    """What one client wants to hear of: all of a user's, one workflow of theirs, or one job of that."""

    user_id: str
    workflow_id: str | None = None
    job_id: str | None = None

    @property
    def topic(self) -> Topic:
        """Under which the facts that may interest are dealt out."""
        return ("user", self.user_id) if self.workflow_id is None else ("workflow", self.workflow_id)

    def covers(self, fact: Fact) -> bool:
        """Whether a fact is about this, and the user's own. One about no job in particular is about all of them."""
        return (
            fact.user_id == self.user_id
            and self.workflow_id in (None, fact.workflow_id)
            and (self.job_id is None or fact.job_id in (None, self.job_id))
        )


@dataclass(frozen=True, slots=True)
class Fact:
    """One event of the log, ready to be sent."""

    cursor: Cursor
    user_id: str
    workflow_id: str | None
    job_id: str | None
    at: datetime
    # The live message as JSON.
    message: bytes


def workflow_of(stream: str) -> str | None:
    """The workflow whose stream this is; None for other streams."""
    kind, _, identity = stream.partition("-")
    return identity if kind == "workflow" else None


def topics_of(stream: str, tenant: str) -> tuple[Topic, ...]:
    """The topics under which an event of this stream is dealt out."""
    workflow_id = workflow_of(stream)
    mine: Topic = ("user", tenant)
    return (mine,) if workflow_id is None else (mine, ("workflow", workflow_id))


def fact(row: asyncpg.Record) -> Fact:
    """The fact of a row of the log."""
    cursor = Cursor(row["xid"], row["position"])
    # What the log holds is canonical protobuf JSON already: no need to make messages of it and JSON of them again.
    data = UPCASTERS.upcast(row["type"], row["schema_version"], row["data"])
    workflow_id, job_id = workflow_of(row["stream"]), data.get("jobId")
    message = {
        "kind": "event",
        "position": str(cursor),
        "type": row["type"],
        "workflow_id": workflow_id,
        "job_id": job_id,
        "at": row["at"],
        "data": data,
    }
    encoded = orjson.dumps(message, option=orjson.OPT_UTC_Z)
    return Fact(cursor, row["tenant"], workflow_id, job_id, row["at"], encoded)


class Facts:
    """Reads of the log for live clients. Every method raises `Unavailable` when Postgres does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def head(self) -> Cursor:
        """The newest place up to which everything can be read."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow(_HEAD)
        return START if row is None else Cursor(row["xid"], row["position"])

    async def knows(self, cursor: Cursor) -> bool:
        """Whether the log has come as far as this cursor; a cursor of another log may lie beyond its end."""
        if cursor == START:
            return True
        async with self._database.connection() as connection:
            return bool(await connection.fetchval(_KNOWN, cursor.xid, cursor.position))

    async def page(
        self, after: Cursor, limit: int, wanted: Callable[[Topic], bool]
    ) -> tuple[Cursor, int, list[tuple[tuple[Topic, ...], Fact]]]:
        """What all users did after the cursor: the last cursor read, the number of events, those that are wanted."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(_ALL, after.xid, after.position, limit)
        found = []
        for row in rows:
            topics = tuple(topic for topic in topics_of(row["stream"], row["tenant"]) if wanted(topic))
            if topics:
                found.append((topics, fact(row)))
        end = Cursor(rows[-1]["xid"], rows[-1]["position"]) if rows else after
        return end, len(rows), found

    async def missed(self, interest: Interest, after: Cursor, limit: int) -> tuple[Cursor, bool, Sequence[Fact]]:
        """What one client missed: the last cursor read, whether there may be more, the facts that interest it."""
        async with self._database.connection() as connection:
            if interest.workflow_id is None:
                rows = await connection.fetch(_OF_USER, after.xid, after.position, limit, interest.user_id)
            else:
                stream = f"workflow-{interest.workflow_id}"
                rows = await connection.fetch(_OF_STREAM, after.xid, after.position, limit, stream, interest.user_id)
        facts = [fact(row) for row in rows]
        end = facts[-1].cursor if facts else after
        return end, len(rows) == limit, [each for each in facts if interest.covers(each)]
