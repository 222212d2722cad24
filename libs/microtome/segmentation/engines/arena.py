"""Room for the pictures between a network's layers.

Promises: a picture has zeros around, as a convolution reads beyond its edges: one pixel before, and up to whole tiles
and one pixel behind; room that nothing reads any more is used again, in this call and in the next. Refuses: to give
room back before the engine goes: taking it anew costs more than computing in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microtome.segmentation.engines.network import Weights
from microtome.segmentation.grid import Rect

_TILE = 4
# A tile that is not whole is computed whole, and of a picture that is half the other's size two tiles together.
_BEHIND = 5
# What a product of matrices reads behind the last row.
_PIXELS_BEHIND = 32
_FLOATS_IN_A_LINE = 16


def address(values: NDArray[Any]) -> int:
    """Where an array begins in memory."""
    begin: int = values.ctypes.data
    return begin


def lined_up(size: int) -> Weights:
    """Give zeros that begin where a line of the processor's cache begins: vectors then lie in one line each."""
    room = np.zeros(size + _FLOATS_IN_A_LINE, np.float32)
    begin = -(address(room) // room.itemsize) % _FLOATS_IN_A_LINE
    return room[begin : begin + size]


@dataclass(frozen=True, eq=False)
class Picture:
    """A layer's output: `values` are [row, column, channel] with the zeros around; `region` is where in the layer."""

    values: Weights
    region: Rect
    slot: int

    @property
    def row(self) -> int:
        """Floats from one row to the next."""
        floats: int = self.values[0].size
        return floats

    def place(self, x: int, y: int) -> int:
        """Where a pixel of the layer is; one before the region is one of the zeros."""
        inside: int = (y - self.region.y + 1) * self.row + (x - self.region.x + 1) * self.values.shape[2]
        return address(self.values) + inside * self.values.itemsize

    def clear_around(self) -> None:
        """Make zeros of what is around, wherever tiles went over the edge."""
        width, height = self.region.width, self.region.height
        self.values[0] = 0
        self.values[height + 1 :] = 0
        self.values[1 : height + 1, 0] = 0
        self.values[1 : height + 1, width + 1 :] = 0


class Arena:
    """Gives pictures and takes them back."""

    def __init__(self) -> None:
        self._rooms: list[Weights] = []
        self._free: list[int] = []

    def take(self, region: Rect, channels: int) -> Picture:
        """Give a picture of a region; nothing is known of what is in it."""
        down, across = (-(-side // _TILE) * _TILE + 1 + _BEHIND for side in (region.height, region.width))
        size = down * across * channels
        slot = self._slot(size + _PIXELS_BEHIND * channels)
        return Picture(self._rooms[slot][:size].reshape(down, across, channels), region, slot)

    def give_back(self, picture: Picture) -> None:
        """Take a picture that nothing reads any more."""
        self._free.append(picture.slot)

    def begin(self) -> None:
        """Take back whatever a call that failed has left."""
        self._free = list(range(len(self._rooms)))

    def _slot(self, size: int) -> int:
        """Choose the smallest room that is large enough, or make the largest that is free as large."""
        fitting = [slot for slot in self._free if self._rooms[slot].size >= size]
        if fitting:
            slot = min(fitting, key=lambda of: self._rooms[of].size)
            self._free.remove(slot)
            return slot
        if self._free:
            slot = max(self._free, key=lambda of: self._rooms[of].size)
            self._free.remove(slot)
            # The old one goes before the new one comes.
            self._rooms[slot] = np.empty(0, np.float32)
            self._rooms[slot] = lined_up(size)
            return slot
        self._rooms.append(lined_up(size))
        return len(self._rooms) - 1
