"""Decoded tiles on their way from the tiler to the network.

Promises: `get` returns exactly the array that was `put`, or raises `PixelsGone`; a reader never
sees half a tile. Refuses: durability. Pixels can be decoded again, so nothing here is synced to
disk, and the folder is best kept in memory (`/dev/shm`).
"""

from __future__ import annotations

import contextlib
import shutil
import uuid
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from microtome.errors import MicrotomeError

Pixels = NDArray[np.uint8]
_CREATE_TRIES = 100


class PixelsGone(MicrotomeError):
    """The decoded pixels of a tile are no longer in the tile store; they have to be decoded again."""

    code = "pixels-gone"
    transient = True


class PixelStore(Protocol):
    """Keeps decoded tiles by key for a short time."""

    def put(self, key: str, pixels: Pixels) -> None:
        """Store uint8 [h, w, 3] under `key`, replacing what was there."""

    def get(self, key: str) -> Pixels:
        """Return the array stored under `key`, uint8 [h, w, 3]; `PixelsGone` if there is none."""

    def discard(self, key: str) -> None:
        """Forget one key; unknown keys are fine."""

    def discard_prefix(self, prefix: str) -> None:
        """Forget every key below `prefix`; an unknown prefix is fine."""


def attempt_prefix(job_id: str, attempt: int) -> str:
    """Return the prefix of all pixels of one attempt at a job."""
    return f"{job_id}/{attempt}"


def pixel_key(job_id: str, attempt: int, row: int, column: int) -> str:
    """Return the key of one tile's pixels. Attempts never share pixels, so one can be cleared alone."""
    return f"{attempt_prefix(job_id, attempt)}/{row}-{column}"


class LocalPixelStore:
    """A `PixelStore` in a folder that all services of one host can see."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True)

    def put(self, key: str, pixels: Pixels) -> None:
        """Store uint8 [h, w, 3] under `key`, replacing what was there. Raises `OSError` when there is no room."""
        path = self._path(key)
        draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            with _created(draft) as file:
                np.save(file, pixels, allow_pickle=False)
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise

    def get(self, key: str) -> Pixels:
        """Return the array stored under `key`, uint8 [h, w, 3]; `PixelsGone` if there is none.

        What is written into it nobody else sees; it lasts when its key is discarded.
        """
        path = self._path(key)
        try:
            # Not a copy: fresh memory for as many pixels costs more than to look at them.
            pixels: Pixels = np.asarray(np.load(path, mmap_mode="c", allow_pickle=False))
        except FileNotFoundError:
            raise PixelsGone(f"The pixels of tile {key} are no longer in the tile store.") from None
        except (ValueError, EOFError) as error:  # a host that crashed, as nothing here is synced
            raise PixelsGone(f"The pixels of tile {key} are damaged: {error}") from error
        return pixels

    def discard(self, key: str) -> None:
        """Forget one key; unknown keys are fine."""
        self._path(key).unlink(missing_ok=True)

    def discard_prefix(self, prefix: str) -> None:
        """Forget every key below `prefix`; an unknown prefix is fine."""
        folder = self._root / _checked(prefix)
        shutil.rmtree(folder, ignore_errors=True)
        if folder.parent != self._root:
            # The job's folder goes with its last attempt; while it holds another, or is gone, this fails.
            with contextlib.suppress(OSError):
                folder.parent.rmdir()

    def _path(self, key: str) -> Path:
        return self._root / f"{_checked(key)}.npy"


def _checked(key: str) -> str:
    """Return a key or prefix that stays below the store's root: names between slashes, none of them hidden."""
    if not all(part and not part.startswith(".") and "\0" not in part for part in key.split("/")):
        raise ValueError(f"not a tile key: {key!r}")
    return key


def _created(path: Path) -> BinaryIO:
    """Open a new file for writing, with its folders: these may vanish while another attempt is discarded."""
    for _ in range(_CREATE_TRIES):
        # `mkdir` says that a folder exists, too, where it vanished before it was looked at.
        with contextlib.suppress(FileNotFoundError, FileExistsError):
            path.parent.mkdir(parents=True, exist_ok=True)
            return path.open("xb")
    raise FileNotFoundError(f"The folder of {path} vanishes again and again.")
