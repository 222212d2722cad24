"""cells.geojson: what QuPath opens.

Promises: a valid FeatureCollection with one detection for each cell, UUID ids, level-0 pixels and
measurements, written as a stream. Refuses: to hold more than one tile's cells.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import orjson

from microtome.artifacts.outlines import Outlines


class CellsGeoJson:
    """Writes outlines as they come; a context manager. The file is valid when it closes."""

    def __init__(self, path: Path, mpp: float | None) -> None:
        """`mpp`: µm per level-0 pixel; without it areas are measured in pixels²."""
        self._file = path.open("wb")
        self._mpp = mpp
        self._first = True

    def __enter__(self) -> CellsGeoJson:
        self._file.write(b'{"type":"FeatureCollection","features":[')
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._file.write(b"\n]}\n")
        self._file.close()

    def append(self, cells: Outlines) -> None:
        """Add the cells of one tile."""
        for index in range(len(cells)):
            self._file.write(b"\n" if self._first else b",\n")
            self._first = False
            self._file.write(orjson.dumps(self._feature(cells, index)))

    def _feature(self, cells: Outlines, index: int) -> dict[str, Any]:
        ring = np.round(cells.ring(index), 2).tolist()
        area = float(cells.area[index])
        size = (
            {"Area px^2": round(area, 2)}
            if self._mpp is None
            else {"Area µm^2": round(area * self._mpp * self._mpp, 3)}
        )
        return {
            "type": "Feature",
            "id": cells.ids[index],
            "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]]]},
            "properties": {
                "objectType": "detection",
                "classification": {"name": "Nucleus", "color": [38, 115, 255]},
                "measurements": {**size, "Detection probability": round(float(cells.score[index]), 4)},
            },
        }
