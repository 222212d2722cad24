"""Starts the inference: `python -m services.inference`."""

from __future__ import annotations

from microtome.process import run
from services.inference.wiring import serve

if __name__ == "__main__":
    run(serve)
