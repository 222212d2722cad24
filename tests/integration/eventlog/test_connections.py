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
