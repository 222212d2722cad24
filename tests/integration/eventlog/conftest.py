from __future__ import annotations

from tests.integration.eventlog.fixtures import database, database_url, log, own_postgres, postgres_url

__all__ = ["database", "database_url", "log", "own_postgres", "postgres_url"]
