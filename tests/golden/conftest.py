from __future__ import annotations

from tests.integration.eventlog.fixtures import database, database_url, empty_url, template

__all__ = ["database", "database_url", "empty_url", "template"]
