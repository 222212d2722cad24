"""A service whose halo is shorter than its model needs does not start, instead of failing every job."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from microtome.errors import ConfigurationError
from microtome.segmentation.model import load_model
from services.inference.wiring import serve as serve_inference
from services.tiler.wiring import serve as serve_tiler


@pytest.mark.parametrize("serve", [serve_tiler, serve_inference], ids=["tiler", "inference"])
async def test_a_halo_too_short_is_refused_before_anything_is_connected(
    serve: Callable[[asyncio.Event], Awaitable[None]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    needed = load_model("embedded").halo_min
    # Nobody listens there: whoever connects first fails with another error.
    monkeypatch.setenv("MICROTOME_DATABASE_URL", "postgresql://127.0.0.1:1/none")
    monkeypatch.setenv("MICROTOME_NATS_URL", "nats://127.0.0.1:1")
    monkeypatch.setenv("MICROTOME_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("TILE_STORE_DIR", str(tmp_path / "tiles"))
    monkeypatch.setenv("TILE_OVERLAP", str(needed - 16))
    with pytest.raises(ConfigurationError, match=rf"TILE_OVERLAP.* at least {needed} pixels"):
        await asyncio.wait_for(serve(asyncio.Event()), 20)
