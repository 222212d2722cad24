"""More borrowers than connections."""

from __future__ import annotations

import pytest

from microtome.eventlog import database as databases
from microtome.eventlog.database import AllInUse, Database


async def test_who_waits_too_long_for_a_connection_is_told_that_it_is_busy(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with await Database.connect(database_url, connections=1) as database:
        monkeypatch.setattr(databases, "CONNECT_SECONDS", 0.1)
        async with database.connection():
            with pytest.raises(AllInUse) as refused:
                async with database.connection():
                    pass
        assert (refused.value.code, refused.value.transient) == ("busy", True)
        async with database.transaction() as connection:
            assert await connection.fetchval("select 1") == 1


async def test_a_transaction_that_was_left_open_swallows_nothing_of_the_next_borrower(database_url: str) -> None:
    async with await Database.connect(database_url, connections=1) as database:
        async with database.connection() as connection:
            await connection.execute("create table notes (text text)")
            await connection.execute("begin")
            await connection.execute("insert into notes values ('lost')")
        async with database.connection() as connection:
            assert not connection.is_in_transaction()
            await connection.execute("insert into notes values ('kept')")
    async with await Database.connect(database_url, connections=1) as database, database.connection() as connection:
        assert [row["text"] for row in await connection.fetch("select text from notes")] == ["kept"]
        await connection.execute("drop table notes")
