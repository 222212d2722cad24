"""Inspecting a stranger's file in a process of its own.

Promises: whatever the file does to the decoders (a crash, an endless loop, all memory), the caller gets an
error of Microtome's within the timeout, and no process is left behind.
Refuses: to isolate more than that; the child runs as the same user and sees the same files.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
from pathlib import Path

from microtome.errors import MicrotomeError, TooLarge, UnreadableSlide
from microtome.slides.facts import SlideFacts
from microtome.slides.opening import converted_path
from microtome.slides.pyramid import partial_prefix

_ERRORS: dict[str, type[MicrotomeError]] = {error.code: error for error in (TooLarge, UnreadableSlide)}


async def inspect_sandboxed(
    path: Path, timeout_s: float = 300.0, memory_bytes: int = 4 << 30, sha256: str | None = None
) -> SlideFacts:
    """Make the file at `path` readable (a converted twin may appear beside it) and return its facts.

    Raises `UnreadableSlide` (also when the child crashes or takes longer than `timeout_s`) or `TooLarge`.
    """
    command = [sys.executable, "-m", "microtome.slides.intake", str(path)]
    command += ["--memory-bytes", str(memory_bytes), "--cpu-seconds", str(int(timeout_s * 2) + 1)]
    if sha256 is not None:
        command += ["--sha256", sha256]
    child = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=_environment(),
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(timeout_s):
            out, _ = await child.communicate()
    except TimeoutError as error:
        raise UnreadableSlide(f"{path.name} could not be read within {timeout_s:.0f} seconds.") from error
    finally:
        await _end(child)
        await asyncio.to_thread(_sweep, path)
    if child.returncode != 0:
        raise UnreadableSlide(f"{path.name} made the reader fail ({_reason(child.returncode)}).")
    try:
        answer = json.loads(out)
    except ValueError as error:
        raise UnreadableSlide(f"{path.name} made the reader give no answer.") from error
    if "error" in answer:
        raise _ERRORS.get(answer["error"]["code"], UnreadableSlide)(answer["error"]["detail"])
    return SlideFacts.from_json(answer["facts"])


def _environment() -> dict[str, str]:
    """Little of the parent's environment: no secrets, and one thread per library, whose stacks count as memory."""
    kept = {
        name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG", "NUMBA_CACHE_DIR") if name in os.environ
    }
    threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    return {**kept, **threads, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}


def _sweep(path: Path) -> None:
    """Remove what a killed conversion left behind; a finished one leaves nothing."""
    for folder in path.parent.glob(partial_prefix(converted_path(path)) + "*"):
        shutil.rmtree(folder, ignore_errors=True)


async def _end(child: asyncio.subprocess.Process) -> None:
    """Kill the child and its own children, and reap it."""
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        await child.wait()


def _reason(code: int | None) -> str:
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"exit status {code}"
