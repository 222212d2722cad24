"""Starts the scheduler: `python -m services.scheduler`."""

from __future__ import annotations

from microtome.process import run
from services.scheduler.wiring import serve

if __name__ == "__main__":
    run(serve)
