"""The fixtures every other suite stands on."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import asyncpg
import nats
import pytest


async def test_each_test_has_an_empty_database(database_url: str, postgres_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        assert await connection.fetchval("select count(*) from pg_tables where schemaname = 'public'") == 0
        assert (await connection.fetchval("show server_version")).startswith("18")
    finally:
        await connection.close()
    assert database_url != postgres_url


async def test_postgres_refuses_a_wrong_password(postgres_url: str) -> None:
    user, _, rest = postgres_url.partition("@")
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(f"{user.rpartition(':')[0]}:wrong@{rest}")


async def test_nats_keeps_streams(fresh_nats_url: str) -> None:
    client = await nats.connect(fresh_nats_url)
    try:
        js = client.jetstream()
        await js.add_stream(name="S", subjects=["s.>"])
        acknowledged = await js.publish("s.1", b"one")
        assert acknowledged.seq == 1
    finally:
        await client.close()


async def test_nats_refuses_strangers(nats_url: str) -> None:
    # By hand: nats-py leaves its socket open when it is refused.
    address = urlsplit(nats_url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        assert (await reader.readline()).startswith(b"INFO")
        writer.write(b'CONNECT {"user":"microtome","pass":"wrong"}\r\nPING\r\n')
        assert b"Authorization Violation" in await reader.readline()
    finally:
        writer.close()
        await writer.wait_closed()
