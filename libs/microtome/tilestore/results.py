"""The cells of finished tiles, by content.

A result's key says all that it depends on: slide, model, parameters (`microtome.segmentation`
computes it), and the tile. So the same key always means the same bytes: one mechanism gives
resume after a crash, safe redelivery and a cache.

Promises: a tile that is `known` has a whole file; one that cannot be read is forgotten, and the next attempt makes it
again; so is a tissue mask. Refuses: to know what is inside.
"""

from __future__ import annotations

import contextlib
import re
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from microtome.errors import InvalidRequest, MicrotomeError, NotFound, UnreadableSlide
from microtome.segmentation.cells import TileCells, read_cells

if TYPE_CHECKING:
    from microtome.tissue.mask import TissueMask


class ResultGone(MicrotomeError):
    """The cells of a tile are no longer in the result store, or not readable; they have to be found again."""

    code = "result-gone"
    transient = True


_TILE = re.compile(r"(\d+)-(\d+)\.arrow")


class ResultStore:
    """Files of tile results and tissue masks below one folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True)

    def tile(self, content_key: str, row: int, column: int) -> Path:
        """Return where the result of a tile lies or will lie; the folder exists afterwards."""
        folder = self._root / content_key
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{row}-{column}.arrow"

    def read(self, content_key: str, row: int, column: int) -> TileCells:
        """Return the cells of a finished tile. Raises `ResultGone`."""
        path = self.tile(content_key, row, column)
        try:
            return read_cells(path)
        except FileNotFoundError as error:
            raise ResultGone(f"Tile ({row}, {column}) has no result any more.") from error
        except InvalidRequest as error:
            path.unlink(missing_ok=True)
            raise ResultGone(f"The result of tile ({row}, {column}) was damaged: {error.detail}") from error

    def has(self, content_key: str, row: int, column: int) -> bool:
        """Say whether a tile has a result."""
        return (self._root / content_key / f"{row}-{column}.arrow").is_file()

    def known(self, content_key: str) -> frozenset[tuple[int, int]]:
        """Return (row, column) of every tile that has a result."""
        folder = self._root / content_key
        if not folder.is_dir():
            return frozenset()
        matches = (_TILE.fullmatch(path.name) for path in folder.iterdir())
        return frozenset((int(match[1]), int(match[2])) for match in matches if match)

    def mask(self, key: str) -> TissueMask:
        """Return a tissue mask that was found before. Raises `ResultGone`."""
        # Whoever runs the network has no use for what reads slides.
        from microtome.tissue.store import load_mask

        path = self.tissue(key)
        try:
            return load_mask(path)
        except NotFound as error:
            raise ResultGone("The tissue mask is gone.") from error
        except UnreadableSlide as error:
            path.unlink(missing_ok=True)
            raise ResultGone(f"The tissue mask was damaged: {error.detail}") from error

    def keep_picture(self, key: str, picture: NDArray[np.uint8]) -> None:
        """Keep what a slide looks like, uint8 RGB [h, w, 3], beside the tissue mask of this key. Raises `OSError`.

        It is not synced: what a power cut leaves of it is too short, and counts as none.
        """
        path = self._picture(key)
        draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            with draft.open("xb") as file:
                np.save(file, picture, allow_pickle=False)
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise

    def picture(self, key: str) -> NDArray[np.uint8] | None:
        """Return what was kept, uint8 RGB [h, w, 3]; None if there is none: the slide has it."""
        with contextlib.suppress(OSError, ValueError, EOFError):
            kept: NDArray[np.uint8] = np.load(self._picture(key), allow_pickle=False)
            if kept.dtype == np.uint8 and kept.ndim == 3 and kept.shape[2] == 3:
                return kept
        return None

    def has_picture(self, key: str) -> bool:
        """Say whether a picture was kept, whole or not."""
        return self._picture(key).is_file()

    def _picture(self, key: str) -> Path:
        return self.tissue(key).with_suffix(".npy")

    def tissue(self, key: str) -> Path:
        """Return where the tissue mask of this key lies or will lie; the folder exists afterwards."""
        folder = self._root / "tissue"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{key}.npz"
