"""What was measured about engines, kept on disk so that it is measured once.

Promises: what is recalled was measured for exactly these facts (model, versions, processor, GPU, threads); a file is
there whole or not at all; a damaged file is as good as none; of several processes that want to measure the same, one
does and the others wait for it. Where nothing can be written, everything works and is measured again each time.
Refuses: to keep anything that cannot be measured again: the whole folder may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import platform
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from microtome.segmentation.model import Model

log = logging.getLogger(__name__)

# Raise it when the same facts would be measured differently: other pictures, another gate, another way to quantise.
_FORMAT = 7
_GPU_QUESTION = ("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
_LIBRARIES = ("onnxruntime", "onnxruntime-gpu", "openvino", "numpy")
_INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimddp", "bf16")
# Longer than any choice takes. After it a process measures for itself.
_PATIENCE_S = 120.0


def default_folder() -> Path | None:
    """Give `MICROTOME_CACHE_DIR`, or the user's cache folder; None where there is no home."""
    if given := os.environ.get("MICROTOME_CACHE_DIR"):
        return Path(given) / "engines"
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given) / "microtome" / "engines"
    try:
        return Path.home() / ".cache" / "microtome" / "engines"
    except RuntimeError:
        return None


def facts(model: Model, threads: int, here: Sequence[str]) -> dict[str, Any]:
    """Give all that a choice among the engines `here` depends on."""
    on_gpu = {"gpu": gpu()} if any("cpu" not in name for name in here) else {}
    return {
        **on_gpu,
        "format": _FORMAT,
        "model": model.digest,
        "threads": threads,
        "engines": sorted(here),
        "versions": {name: _version(name) for name in _LIBRARIES},
        "processor": processor(),
    }


def processor() -> dict[str, Any]:
    """Name the processor and those of its instructions that matter to a network."""
    model, flags = platform.machine(), set[str]()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").split("\n\n")[0].splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                model = f"{platform.machine()} {value.strip()}"
            elif name.strip() in {"flags", "Features"}:
                flags = set(value.split())
    return {"name": model, "instructions": [name for name in _INSTRUCTIONS if name in flags]}


def gpu() -> dict[str, Any]:
    """Name the GPUs with their driver, as the driver's own tool does, and which of them this process may use."""
    try:
        told = subprocess.run(_GPU_QUESTION, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("the GPU cannot be named: %s", error)
        lines = []
    else:
        lines = [line.strip() for line in told.stdout.splitlines() if line.strip()]
    return {"devices": lines, "visible": os.environ.get("CUDA_VISIBLE_DEVICES")}


def recall(folder: Path | None, of: Mapping[str, Any]) -> Any:  # noqa: ANN401 - any JSON
    """Return what was remembered for these facts; None if nothing was, or nothing that can be read."""
    if folder is None:
        return None
    try:
        kept = json.loads(_path(folder, of).read_text("utf-8"))
        return kept["measured"] if kept["facts"] == dict(of) else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        log.warning("what was measured about engines cannot be read and is measured again: %s", error)
        return None


def remember(folder: Path | None, of: Mapping[str, Any], measured: object) -> None:
    """Keep what was measured for these facts."""
    if folder is None:
        return
    path = _path(folder, of)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        aside.write_text(json.dumps({"facts": dict(of), "measured": measured}, indent=1) + "\n", "utf-8")
        aside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        log.warning("what was measured about engines cannot be kept and will be measured again: %s", error)


@contextlib.contextmanager
def alone(folder: Path | None, of: Mapping[str, Any]) -> Iterator[None]:
    """Hold off other processes that would measure the same, if the system and the folder allow it."""
    with contextlib.ExitStack() as stack:
        if folder is not None:
            with contextlib.suppress(OSError, ImportError):
                import fcntl

                folder.mkdir(parents=True, exist_ok=True)
                lock = stack.enter_context(_path(folder, of).with_suffix(".lock").open("w"))
                _wait_for(lambda: fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB))
        yield


def _wait_for(take: Any) -> None:  # noqa: ANN401
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            take()
        except BlockingIOError:
            if time.monotonic() > until:
                return
            time.sleep(0.05)
        else:
            return


def _path(folder: Path, of: Mapping[str, Any]) -> Path:
    canonical = json.dumps(dict(of), sort_keys=True, separators=(",", ":"))
    return folder / f"{hashlib.sha256(canonical.encode()).hexdigest()[:32]}.json"


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None
