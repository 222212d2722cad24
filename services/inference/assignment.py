"""One message of tiles on its way through the network.

Promises: an assignment is finished exactly once, when the last of its tiles is stored or the first has failed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from microtome.bus.queue import Delivery
from microtome.contracts.messages import InferWork, TileRef
from microtome.errors import InvalidRequest
from microtome.segmentation.grid import Grid
from microtome.segmentation.normalisation import Normalisation
from microtome.segmentation.patches import View


@dataclass(eq=False)
class Assignment:
    """The tiles of one `InferWork`, and how many of them are still under way."""

    work: InferWork
    delivery: Delivery
    remaining: int
    cells: int = 0
    error: BaseException | None = None
    grid: Grid = field(init=False)
    low: NDArray[np.float32] = field(init=False)
    scale: NDArray[np.float32] = field(init=False)

    def __post_init__(self) -> None:
        work = self.work
        if not work.tiles or work.normalisation is None:
            raise InvalidRequest("A message without tiles or without their normalisation cannot be worked on.")
        self.grid = Grid(work.grid_width, work.grid_height, work.tile_size, work.halo)
        red, green, blue = work.normalisation.low
        high_red, high_green, high_blue = work.normalisation.high
        self.low, self.scale = Normalisation((red, green, blue), (high_red, high_green, high_blue)).arrays()

    @property
    def prefix(self) -> tuple[str, int]:
        """Job and attempt, which the fence asks for."""
        return self.work.job_id, self.work.attempt


@dataclass(frozen=True, eq=False)
class LoadedTile:
    """A tile whose pixels, uint8 [h, w, 3], wait for a place in a batch, and how they are to be looked at."""

    assignment: Assignment
    ref: TileRef
    pixels: NDArray[np.uint8]
    view: View
