"""The cells of finished tiles, by content.

A result's key says all that it depends on: slide, model, parameters (`microtome.segmentation`
computes it), and the tile. So the same key always means the same bytes: one mechanism gives
resume after a crash, safe redelivery and a cache.

Promises: a tile that is `known` has a whole, readable file. Refuses: to know what is inside.
"""

from __future__ import annotations

import re
from pathlib import Path

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

    def known(self, content_key: str) -> frozenset[tuple[int, int]]:
        """Return (row, column) of every tile that has a result."""
        folder = self._root / content_key
        if not folder.is_dir():
            return frozenset()
        matches = (_TILE.fullmatch(path.name) for path in folder.iterdir())
        return frozenset((int(match[1]), int(match[2])) for match in matches if match)

    def tissue(self, key: str) -> Path:
        """Return where the tissue mask of this key lies or will lie; the folder exists afterwards."""
        folder = self._root / "tissue"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{key}.npz"
