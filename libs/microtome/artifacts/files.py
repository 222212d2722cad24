"""All files of cells, written together.

Promises: every tile's cells go into every file, in the order in which tiles come, so that the same results give the
same bytes; a file that fails ends the others. What each costs is counted.
Refuses: to hold more than a tile's cells for each file.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from microtome.artifacts.flatgeobuf import CellsFlatGeobuf
from microtome.artifacts.geojson import CellsGeoJson
from microtome.artifacts.geoparquet import CellsParquet
from microtome.artifacts.outlines import Outlines
from microtome.artifacts.table import CellsCsv
from microtome.segmentation.stains import Stain


class CellFiles:
    """cells.parquet, cells.geojson, cells.csv and cells.fgb in one folder; a context manager, whole when it closes.

    `seconds`: wall seconds that each file took.
    """

    def __init__(self, folder: Path, mpp: float | None, stain: Stain, properties: dict[str, Any]) -> None:
        """`mpp`: µm per level-0 pixel; `properties`: said in the metadata of the Parquet file."""
        self._folder, self._mpp, self._stain, self._properties = folder, mpp, stain, properties
        self._open = ExitStack()
        self._files: dict[str, CellsParquet | CellsGeoJson | CellsCsv | CellsFlatGeobuf] = {}
        self.seconds: dict[str, float] = {}

    def __enter__(self) -> CellFiles:
        folder, stain = self._folder, self._stain
        with ExitStack() as opening:
            self._files = {
                "cells.parquet": opening.enter_context(CellsParquet(folder / "cells.parquet", self._properties, stain)),
                "cells.geojson": opening.enter_context(CellsGeoJson(folder / "cells.geojson", stain)),
                "cells.csv": opening.enter_context(CellsCsv(folder / "cells.csv", self._mpp, stain)),
                "cells.fgb": opening.enter_context(CellsFlatGeobuf(folder / "cells.fgb", stain)),
            }
            self._open = opening.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)

    def append(self, cells: Outlines) -> None:
        """Add the cells of one tile to every file."""
        for name, file in self._files.items():
            began = time.perf_counter()
            file.append(cells)
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
