"""Taking a new file in: make it readable, then inspect it.

Promises: run as `python -m microtome.slides.intake`, it limits its own memory and processor time before it
touches the file, and answers with one JSON document: `{"facts": …}` or `{"error": {"code", "detail"}}`.
Refuses: to be trusted with more than one file per process.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import sys
from pathlib import Path

from microtome.errors import MicrotomeError


def main(arguments: list[str] | None = None) -> int:
    """The process's entry point."""
    parser = argparse.ArgumentParser(prog="microtome.slides.intake")
    parser.add_argument("path", type=Path)
    parser.add_argument("--sha256")
    parser.add_argument("--memory-bytes", type=int, default=0)
    parser.add_argument("--cpu-seconds", type=int, default=0)
    options = parser.parse_args(arguments)
    _limit(options.memory_bytes, options.cpu_seconds)
    try:
        # Imported under the limits: decoders are what they are for.
        from microtome.slides.conversion import make_readable
        from microtome.slides.inspection import inspect_slide

        make_readable(options.path)
        answer = {"facts": inspect_slide(options.path, options.sha256).to_json()}
    except MicrotomeError as error:
        answer = {"error": {"code": error.code, "detail": error.detail}}
    except MemoryError:
        detail = f"Reading {options.path.name} takes more memory than is granted for it."
        answer = {"error": {"code": "too-large", "detail": detail}}
    json.dump(answer, sys.stdout)
    return 0


def _limit(memory_bytes: int, cpu_seconds: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory_bytes:
        # macOS knows this limit and refuses to set it; there the processor time and the parent's patience must do.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    if cpu_seconds:
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))


if __name__ == "__main__":
    raise SystemExit(main())
