"""The folder that a segmentation left.

Promises: what is read of it is bounded by a row group or a tile, except where a whole column is asked for.
Refuses: folders without cells (`InvalidRequest`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from microtome.artifacts import masks
from microtome.artifacts.masks import TileOutlines, Tiling
from microtome.errors import InvalidRequest
from microtome.segmentation.measuring import Measurement, measurements_of
from microtome.segmentation.stains import Stain, stain_named


@dataclass(frozen=True, slots=True)
class LabelTile:
    """A part of the slide's label image: `labels` uint32 [h, w] from model pixel (`x`, `y`); 0 where no cell is.

    Label n is the n-th row of cells.parquet.
    """

    x: int
    y: int
    labels: NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class JobFiles:
    """A segmentation's folder: its summary, and how it was tiled."""

    folder: Path
    summary: dict[str, Any]
    tiling: Tiling

    @classmethod
    def at(cls, folder: Path) -> JobFiles:
        """Open a folder. Raises `InvalidRequest`."""
        try:
            summary = orjson.loads((folder / "summary.json").read_bytes())
            tiling = Tiling.of(summary)
        except FileNotFoundError as error:
            raise InvalidRequest(f"{folder} is no folder with the files of a job: it has no summary.json.") from error
        except (OSError, ValueError, AttributeError) as error:
            raise InvalidRequest(f"{folder} is no folder with the files of a job: {error}") from error
        if tiling is None or not (folder / "cells.parquet").is_file():
            raise InvalidRequest(f"{folder} has no cells: give the folder of a job that looked for cells.")
        return cls(folder, summary, tiling)

    @property
    def cells(self) -> Path:
        """The canonical file of cells."""
        return self.folder / "cells.parquet"

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        """What was measured of each cell."""
        return measurements_of(self.stain)

    @property
    def stain(self) -> Stain:
        """Whose dyes were measured."""
        return stain_named(self.summary.get("stain") or "he")

    @property
    def model_mpp(self) -> float | None:
        """µm per model pixel; None where no pixel size is known."""
        mpp = self.summary.get("mpp")
        return None if mpp is None else float(mpp) * self.tiling.scale

    def table(self, columns: list[str]) -> pa.Table:
        """Return whole columns of cells.parquet, in the order of the file."""
        return pq.read_table(self.cells, columns=columns)

    def tiles(self) -> Iterator[TileOutlines]:
        """Yield the tiles that have cells, with their outlines, in the order of the file."""
        with self.cells.open("rb") as file:
            yield from masks.tiles(file, self.tiling)

    def label_tiles(self) -> Iterator[LabelTile]:
        """Yield the tiles that have cells as labels."""
        grid, before = self.tiling.grid, 0
        for tile in self.tiles():
            drawn = masks.draw(tile, self.tiling)
            labels = np.where(drawn > 0, drawn + np.uint32(before), np.uint32(0)).astype(np.uint32)
            before += len(tile.rings)
            x, y = grid.across.origin(tile.column), grid.down.origin(tile.row)
            # The plane's last few pixels are not slide.
            yield LabelTile(x, y, labels[: grid.height - y, : grid.width - x])
