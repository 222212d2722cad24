"""Prints the OpenAPI document: `python -m services.gateway.openapi > proto/openapi.json`.

Promises: the same routes give the same bytes. Refuses: to need a server or an environment.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from services.gateway.settings import GatewaySettings
from services.gateway.wiring import create_app


def document() -> str:
    """The OpenAPI document as indented JSON with sorted keys, ending in a newline."""
    nowhere = GatewaySettings(
        microtome_database_url="postgresql://", microtome_nats_url="nats://", microtome_data_dir=Path("/nonexistent")
    )
    return json.dumps(create_app(nowhere).openapi(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(document())
