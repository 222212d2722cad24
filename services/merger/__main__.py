"""Starts the merger: `python -m services.merger`."""

from __future__ import annotations

from microtome.process import run
from services.merger.wiring import serve

if __name__ == "__main__":
    run(serve)
