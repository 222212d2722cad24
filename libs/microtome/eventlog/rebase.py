"""The log made readable again after it was restored into another cluster.

Readers page by (xid, position) below the xmin of their snapshot. A cluster counts its own transaction ids: after a dump
is restored elsewhere, events may carry ids that this cluster has yet to hand out. Readers then wait until it has, new
events sort before old ones, and a checkpoint lies in a future that does not come.

Promises: `rebase` gives stored events ids below all that this cluster will hand out from now on, in the order that they
had; what was appended since the restore comes last. Checkpoints move to the last event that they are certain to have
seen, snapshots are dropped, places of workflows are renewed. All in one transaction that excludes everybody else, and
written down in the table `rebases`.
Refuses: when no event is of another cluster (`Conflict`); when somebody is at work (`Busy`: stop the services first);
to commit unless each event stands where it stood. It is the one statement of the program that changes rows of `events`,
and only their xid. For that it puts the trigger that forbids it aside until the transaction ends, which only the owner
of the table may do.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import asyncpg

from microtome.errors import Busy, Conflict
from microtome.eventlog.database import Connection, Database
from microtome.eventlog.migrate import FOREIGN

_LOG = logging.getLogger(__name__)

# The first transaction id that is not the server's own. Whatever has it lies in everybody's past.
FIRST_XID = 3
LOCK_SECONDS = 5

_EXCLUDE = "lock table events, checkpoints, snapshots, workflows in access exclusive mode"
# Ids from this transaction's on are of the other cluster. What was appended here since the restore has low ids, but
# later positions than all of those.
_BOUND = """
select pg_current_xact_id() as xid,
       (select coalesce(max(position), 0) from events where xid >= pg_current_xact_id()) as position
"""
# Within a run of rising positions one id will do, since the position decides among equals.
_ORDER = """
create temp table rebase_order on commit drop as
with placed as (
    select xid, position, xid < '{xid}'::xid8 and position > {position} as since from events
), ordered as (
    select *, row_number() over sequence as n, position < lag(position) over sequence as falls
    from placed window sequence as (order by since, xid, position)
)
select xid, position, since, n, count(*) filter (where falls) over (order by n) as run from ordered
"""
_MISSING = """
select $1::bigint + max(run) + 1 - pg_snapshot_xmin(pg_current_snapshot())::text::bigint from pg_temp.rebase_order
"""
_RENUMBER = """
update events e set xid = ($1::bigint + o.run)::text::xid8 from rebase_order o where o.position = e.position
"""
# The longest beginning of the log of which the consumer has seen everything; it may see events again.
_CHECKPOINTS = """
with seen as (
    select c.consumer, o.n, o.position, o.run,
           bool_and((o.xid, o.position) <= (c.xid, c.position) and not (o.since and c.xid >= $2::xid8))
               over (partition by c.consumer order by o.n) as all_so_far
    from checkpoints c cross join rebase_order o
), last as (
    select distinct on (consumer) consumer, ($1::bigint + run)::text::xid8 as xid, position
    from seen where all_so_far order by consumer, n desc
)
update checkpoints c
set xid = coalesce(last.xid, '0'), position = coalesce(last.position, 0), updated_at = clock_timestamp()
from checkpoints known left join last using (consumer) where known.consumer = c.consumer
"""
_WORKFLOWS = """
update workflows w set xid = e.xid, position = e.position
from events e where e.stream = 'workflow-' || w.workflow_id and e.version = w.version
"""
_MOVED = """
select count(*) from (select position, row_number() over (order by xid, position) as n from events) as e
full join rebase_order as o using (position) where e.n is distinct from o.n
"""
_INVERTED = """
select count(*) from (
    select version < lag(version) over (partition by stream order by xid, position) as falls from events
) as e where falls
"""
_SEQUENCE = """
select setval(pg_get_serial_sequence('events', 'position'),
              greatest(nextval(pg_get_serial_sequence('events', 'position')), (select max(position) + 1 from events)))
"""
_WRITE_DOWN = """
insert into rebases (events, greatest, became)
select count(*), max(o.xid::text::bigint)::text::xid8, max(e.xid::text::bigint)::text::xid8
from events e join pg_temp.rebase_order o using (position)
returning events, greatest, became, became < pg_snapshot_xmin(pg_current_snapshot()) as past
"""
# An id is used up by asking for it; a transaction that does nothing else leaves no trace.
_USE_UP = """
do $$ begin for n in 1..{count} loop perform pg_current_xact_id(); commit; end loop; end $$
"""


@dataclass(frozen=True, slots=True)
class Rebase:
    """What was done: how many events there are, and their greatest xid before and after."""

    events: int
    greatest: int
    became: int


async def foreign_events(database: Database) -> int:
    """Return how many events carry ids that this cluster has yet to hand out; with any, `rebase` is needed.

    Raises `Unavailable`.
    """
    async with database.connection() as connection:
        return int(await connection.fetchval(FOREIGN))


async def rebase(database: Database) -> Rebase:
    """Renumber the transaction ids of the log. Stop all services before, and start them afterwards.

    Raises `Conflict` when there is no need or the order would not be kept, `Busy` when somebody holds the log or keeps
    a transaction open, `Unavailable`.
    """
    async with database.session() as connection:
        try:
            return await _rebase(connection)
        except asyncpg.LockNotAvailableError as error:
            raise Busy("Somebody is at work on the log; stop all services and try again.") from error


async def _rebase(connection: Connection) -> Rebase:
    if not await connection.fetchval(FOREIGN):
        raise Conflict("No event carries a transaction id of another cluster; there is nothing to rebase.")
    async with connection.transaction():
        # Only to know how many ids it takes: others may be at work still.
        await _order(connection)
        missing = await connection.fetchval(_MISSING, FIRST_XID)
    if missing > 0:
        await connection.execute(_USE_UP.format(count=missing))
    async with connection.transaction():
        await connection.execute(f"set local lock_timeout = '{LOCK_SECONDS}s'")
        await connection.execute(_EXCLUDE)
        bound = await _order(connection)
        if await connection.fetchval(_MISSING, FIRST_XID) > 0:
            raise Busy("A transaction has been open in this cluster for long; end it and try again.")
        return await _renumber(connection, bound)


async def _order(connection: Connection) -> int:
    """Make the table of the order that is to be; return the first id that is of the other cluster."""
    bound = await connection.fetchrow(_BOUND)
    assert bound is not None
    await connection.execute(_ORDER.format(xid=int(bound["xid"]), position=int(bound["position"])))
    await connection.execute("analyze pg_temp.rebase_order")
    return int(bound["xid"])


async def _renumber(connection: Connection, bound: int) -> Rebase:
    await connection.execute("alter table events disable trigger events_append_only")
    await connection.execute(_RENUMBER, FIRST_XID)
    await connection.execute("alter table events enable always trigger events_append_only")
    await connection.execute(_CHECKPOINTS, FIRST_XID, bound)
    await connection.execute("delete from snapshots")
    await connection.execute(_WORKFLOWS)
    await connection.fetchval(_SEQUENCE)
    done = await connection.fetchrow(_WRITE_DOWN)
    assert done is not None
    moved, inverted = await connection.fetchval(_MOVED), await connection.fetchval(_INVERTED)
    if moved or inverted or not done["past"]:
        raise Conflict(
            f"Nothing was changed: {moved} events would not stand where they stood, "
            f"{inverted} would come before an earlier one of their stream."
        )
    result = Rebase(done["events"], done["greatest"], done["became"])
    _LOG.warning("rebased %s events: the greatest xid was %s and is %s", result.events, result.greatest, result.became)
    return result
