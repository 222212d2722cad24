"""Where the gateway's own fold of the log begins: at the scheduler's snapshot.

Promises: what it returns is the fold of the log up to its cursor. Refuses: to rest on a snapshot; without one that can
be read there is nothing to begin at, and the log is folded from its start.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from microtome.domain import snapshot
from microtome.domain.cluster import Cluster
from microtome.errors import MicrotomeError
from microtome.eventlog.database import Database
from microtome.eventlog.log import Cursor, StoredEvent
from microtome.eventlog.snapshots import PostgresSnapshots
from microtome.replay.source import DatabaseHistory

# What a cluster does not remember: which model and which engine worked last.
_LATELY = ("JobPlanned", "JobSucceeded")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Beginning:
    """A cluster, the last event that is folded in, and the last events that said something about the engine."""

    cluster: Cluster
    cursor: Cursor
    lately: tuple[StoredEvent, ...]


async def at_snapshot(database: Database) -> Beginning | None:
    """Read the scheduler's snapshot; None if there is none that can be read. Raises `Unavailable`."""
    kept = await PostgresSnapshots(database, snapshot.KEPT_AS, snapshot.KEPT_FORMAT).load()
    if kept is None:
        return None
    try:
        cluster = await asyncio.to_thread(lambda: snapshot.load(snapshot.unpack(kept.data)[1]))
    except Exception:
        # Whatever is wrong with it, it is only a cache.
        logger.exception("the scheduler's snapshot cannot be read; the log is folded from its start")
        return None
    return Beginning(cluster, kept.cursor, await _lately(database, kept.cursor))


async def _lately(database: Database, before: Cursor) -> tuple[StoredEvent, ...]:
    history = DatabaseHistory(database)
    try:
        return tuple([event for kind in _LATELY for event in await history.last(1, before, types=[kind])])
    except MicrotomeError as error:
        logger.warning("which engine worked last is not known: %s", error.detail)
        return ()
