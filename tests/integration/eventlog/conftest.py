from __future__ import annotations

from tests.integration.eventlog.fixtures import database, database_url, empty_url, log, own_postgres, template

__all__ = ["database", "database_url", "empty_url", "log", "own_postgres", "template"]
