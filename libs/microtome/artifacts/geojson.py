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
from numpy.typing import NDArray

from microtome.artifacts.outlines import Outlines, closed_rings


class CellsGeoJson:
    """Writes outlines as they come; a context manager. The file is valid when it closes."""

    def __init__(self, path: Path, mpp: float | None) -> None:
        """`mpp`: µm per level-0 pixel; without it areas are measured in pixels²."""
        self._file = path.open("wb")
        self._mpp = mpp
        self._area_name = "Area px^2" if mpp is None else "Area µm^2"
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
        if not len(cells):
            return
        rings, starts = closed_rings(np.round(cells.points, 2), cells.offsets)
        ends = starts[1:].tolist()
        lines = [
            orjson.dumps(self._feature(id_, rings[start:end], area, score), option=orjson.OPT_SERIALIZE_NUMPY)
            for id_, start, end, area, score in zip(
                cells.ids,
                [0, *ends],
                ends,
                self._areas(cells.area),
                np.round(cells.score.astype(np.float64), 4).tolist(),
                strict=False,  # One start more than ends: where the next ring would begin.
            )
        ]
        self._file.write(b"\n" if self._first else b",\n")
        self._first = False
        self._file.write(b",\n".join(lines))

    def _areas(self, area: NDArray[np.float64]) -> list[float]:
        rounded = np.round(area, 2) if self._mpp is None else np.round(area * (self._mpp * self._mpp), 3)
        areas: list[float] = rounded.tolist()
        return areas

    def _feature(self, id_: str, ring: NDArray[np.float64], area: float, score: float) -> dict[str, Any]:
        return {
            "type": "Feature",
            "id": id_,
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {
                "objectType": "detection",
                "classification": {"name": "Nucleus", "color": [38, 115, 255]},
                "measurements": {self._area_name: area, "Detection probability": score},
            },
        }
