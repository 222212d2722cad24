"""Starts the tiler: `python -m services.tiler`."""

from __future__ import annotations

from microtome.process import run
from services.tiler.wiring import serve

if __name__ == "__main__":
    run(serve)
