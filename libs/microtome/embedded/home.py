"""Folders of the embedded stack.

Promises: everything lies under one home (`MICROTOME_HOME`, else `.microtome` in the project);
only the tile store may be in shared memory, where it is removed with the stack.
Refuses: to hold state.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the folder's name carries the home's hash and the mode is 0700
SHARED_MEMORY_MINIMUM = 1024**3


def project_root() -> Path:
    """The checkout this code lies in."""
    return Path(__file__).resolve().parents[3]


def default_home(environment: Mapping[str, str] | None = None) -> Path:
    """`MICROTOME_HOME`, or `.microtome` in the project root; absolute."""
    chosen = (os.environ if environment is None else environment).get("MICROTOME_HOME", "").strip()
    return Path(chosen).expanduser().resolve() if chosen else project_root() / ".microtome"


def tile_store(home: Path, data_dir: Path, environment: Mapping[str, str]) -> tuple[Path, bool]:
    """The tile store's folder, made empty, and whether it is in shared memory (to be removed at the end).

    `TILE_STORE_DIR` decides if set; else shared memory with at least 1 GiB free; else the data folder.
    """
    chosen = environment.get("TILE_STORE_DIR", "").strip()
    if chosen:
        folder = Path(chosen)
        folder.mkdir(parents=True, exist_ok=True)
        return folder, False
    name = "microtome-" + hashlib.sha256(str(home).encode()).hexdigest()[:12]
    shared = _has_room(SHARED_MEMORY)
    folder = SHARED_MEMORY / name if shared else data_dir / "tiles"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    return folder, shared


def _has_room(folder: Path) -> bool:
    try:
        return os.access(folder, os.W_OK) and shutil.disk_usage(folder).free >= SHARED_MEMORY_MINIMUM
    except OSError:
        return False
