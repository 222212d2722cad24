"""What of a tile the network is given: patches that cover its ground, not the glass between.

The ground of a tile says where cells are looked for, on a lattice of 16 pixels (see `microtome.tissue.ground`). Off the
ground the seed channel of the logits is `NOWHERE`, whatever the network would say: nothing begins there and nothing
grows there. On the ground they are the network's.
Promises: the logits on the ground do not depend on the patches: each pixel is at least a halo away from every edge of
its patch that is not the tile's own, and every patch begins at a multiple of 16; so they are, bit for bit, those of the
whole tile, and which patches there are is only a matter of cost. (OpenVINO computes floats in another order in a few
shapes; its last bits are not promised.)
Refuses: to know what tissue is.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from microtome.errors import InvalidRequest
from microtome.segmentation.engine import Engine, infer_part, lanes_of
from microtome.segmentation.grid import STRIDE, Rect

Bits = NDArray[np.bool_]
_Box = tuple[int, int, int, int]
_Edges = NDArray[np.int64]
_Edge = _Edges | int
_Boxes = tuple[_Edges, _Edges, _Edges, _Edges]

# The seed channel off the ground.
NOWHERE = np.float32(-np.inf)
# A call of another shape than the last costs as much as so many pixels: kernels are made for it (30 ms, int8).
PIXELS_PER_CALL = 65_536
_CALL = PIXELS_PER_CALL / STRIDE**2
# Half of a patch of fewer pixels is not worth a lane: its halo would weigh more.
WORTH_A_LANE = 131_072
# How much more than its part of a tile's pixels the largest patch may have, where several lanes share one tile.
_UNEVEN = 1.25
# Of so many tiles for each lane none is shared out.
_FEW_TILES = 2
# How often a part is cut again, how many places are tried along each axis, and how far apart, in cells.
_DEPTH, _PLACES, _APART = 3, 2, 4
# A cut may cost this much more at first, if further cuts then save it.
_PATIENCE = 1.12
# What covers a tile's ground that well cannot be bettered by much.
_GOOD = 0.95


@dataclass(frozen=True, slots=True)
class Patch:
    """A part of a tile, in the tile's own pixels: `seen` by the network, of which the logits of `taken` are kept."""

    seen: Rect
    taken: Rect


@dataclass(frozen=True, eq=False, slots=True)
class View:
    """How a tile is looked at: its `ground`, bool [h / 16, w / 16] (None: everywhere), and the patches for it."""

    ground: Bits | None
    patches: tuple[Patch, ...]

    @classmethod
    def of(
        cls, ground: Bits | None, width: int, height: int, halo: int, *, whole: bool = False, lanes: int = 1
    ) -> View:
        """Look at a tile of `width` × `height` pixels; in one `whole`, or in patches if they are cheaper.

        `halo`: how far the network sees. `lanes`: among how many calls at the same time the tile should be shared out
        evenly, see `lanes_for`. Raises `InvalidRequest` for a ground of another shape.
        """
        everything = Rect(0, 0, width, height)
        if ground is None:
            return cls(None, _spread((Patch(everything, everything),), everything, halo, 1 if whole else lanes))
        if ground.shape != (height // STRIDE, width // STRIDE):
            raise InvalidRequest(f"A tile of {width} × {height} pixels cannot have a ground of {ground.shape} cells.")
        if whole and ground.any():
            return cls(ground, (Patch(everything, everything),))
        return cls(ground, _spread(patches_over(ground, halo), everything, halo, lanes))

    @property
    def pixels(self) -> int:
        """How many pixels go through the network."""
        return sum(patch.seen.width * patch.seen.height for patch in self.patches)


def lanes_for(lanes: int, tiles: int) -> int:
    """Among how many of an engine's lanes each tile of a grid is shared out.

    Where tiles are many, each lane takes one, and none waits for long at the end; where they are few, all take each.
    """
    return lanes if tiles <= _FEW_TILES * lanes else 1


def packed(ground: Bits) -> bytes:
    """The ground as messages carry it: one bit for each cell, row by row."""
    return np.packbits(ground).tobytes()


def unpacked(data: bytes, width: int, height: int) -> Bits | None:
    """The ground of a tile of `width` × `height` pixels from a message; None, everywhere, if it has none.

    Raises `InvalidRequest` for data of another length.
    """
    if not data:
        return None
    cells = (height // STRIDE) * (width // STRIDE)
    if len(data) != -(-cells // 8):
        raise InvalidRequest(f"{len(data)} bytes are not the ground of a tile of {width} × {height} pixels.")
    bits = np.unpackbits(np.frombuffer(data, np.uint8), count=cells)
    return bits.astype(np.bool_).reshape(height // STRIDE, width // STRIDE)


def patches_over(ground: Bits, halo: int) -> tuple[Patch, ...]:
    """Patches that cover `ground`, bool [h / 16, w / 16], each with `halo` pixels around but for the tile's edges.

    Found by cutting boxes in two again and again, where that saves pixels. The largest is first, so that memory is
    asked for once. None where there is no ground.
    """
    if not ground.any():
        return ()
    cutter = _Cutter(ground, -(-halo // STRIDE))
    found = [cutter.patch(box) for box in cutter.boxes()]
    return tuple(sorted(found, key=lambda patch: -_size(patch)))


def _spread(patches: tuple[Patch, ...], tile: Rect, halo: int, lanes: int) -> tuple[Patch, ...]:
    """Cut the largest patches in two until no lane has much more to do than the others."""
    around = -(-halo // STRIDE) * STRIDE
    found = list(patches)
    while lanes > 1 and found:
        largest = max(found, key=_size)
        even = _size(largest) * lanes <= _UNEVEN * sum(map(_size, found))
        # With a long halo a single cell of ground can be seen from afar.
        one_cell = max(largest.taken.width, largest.taken.height) < 2 * STRIDE
        if even or one_cell or _size(largest) < 2 * WORTH_A_LANE:
            break
        found.remove(largest)
        found += [Patch(half.grown(around).intersection(tile), half) for half in _cut_in_two(largest.taken)]
    return tuple(sorted(found, key=lambda patch: -_size(patch)))


def _size(patch: Patch) -> int:
    return patch.seen.width * patch.seen.height


def _cut_in_two(rect: Rect) -> tuple[Rect, Rect]:
    """Across the longer side, at a multiple of 16 from its start."""
    if rect.width > rect.height:
        first = rect.width // (2 * STRIDE) * STRIDE
        return (
            Rect(rect.x, rect.y, first, rect.height),
            Rect(rect.x + first, rect.y, rect.width - first, rect.height),
        )
    first = rect.height // (2 * STRIDE) * STRIDE
    return (
        Rect(rect.x, rect.y, rect.width, first),
        Rect(rect.x, rect.y + first, rect.width, rect.height - first),
    )


def infer(
    engine: Engine,
    pixels: NDArray[np.uint8],
    low: NDArray[np.float32],
    scale: NDArray[np.float32],
    views: Sequence[View],
) -> Sequence[NDArray[np.float32]]:
    """Logits float32 [5, h, w] of each of the tiles `pixels` uint8 [b, h, w, 3], as its view says.

    `low`, `scale`: float32 [b, 3]. What every view takes whole is one call, every other patch one of its own.
    Raises what `Engine.infer` raises.
    """
    height, width = pixels.shape[1:3]
    everything = Rect(0, 0, width, height)
    if all(view.patches and view.patches[0].taken == everything for view in views):
        logits = engine.infer(pixels, low, scale)
        return [_masked(of_tile, view.ground) for of_tile, view in zip(logits, views, strict=True)]
    return [_patched(engine, pixels[at], low[at : at + 1], scale[at : at + 1], view) for at, view in enumerate(views)]


def _patched(
    engine: Engine, pixels: NDArray[np.uint8], low: NDArray[np.float32], scale: NDArray[np.float32], view: View
) -> NDArray[np.float32]:
    logits = np.empty((5, *pixels.shape[:2]), np.float32)
    lanes = min(lanes_of(engine), len(view.patches))
    # The network does not wait while what it found is put in its place.
    with ThreadPoolExecutor(1, thread_name_prefix="logits") as other:
        # Where no seed can be, nobody reads the other channels.
        placing = [other.submit(logits[4].fill, NOWHERE)]

        def run(patch: Patch) -> None:
            seen, taken = patch.seen, patch.taken
            wanted = Rect(taken.x - seen.x, taken.y - seen.y, taken.width, taken.height)
            found = infer_part(engine, pixels[None, *_place(seen)], low, scale, wanted)
            placing.append(other.submit(_put, logits, found[0], taken, view.ground))

        if lanes > 1:
            with ThreadPoolExecutor(lanes, thread_name_prefix="patch") as threads:
                # What one of them raises is raised.
                list(threads.map(run, view.patches))
        else:
            for patch in view.patches:
                run(patch)
        for each in placing:
            each.result()
    return logits


def _put(logits: NDArray[np.float32], found: NDArray[np.float32], taken: Rect, ground: Bits | None) -> None:
    """Put what was `found` of a part into the tile's logits, but for seeds off the ground."""
    at = _place(taken)
    logits[:4, *at] = found[:4]
    cells = Rect(taken.x // STRIDE, taken.y // STRIDE, taken.width // STRIDE, taken.height // STRIDE)
    held = None if ground is None else ground[_place(cells)]
    if held is None or held.all():
        logits[4, *at] = found[4]
        return
    tall, wide = held.shape
    np.copyto(
        logits[4, *at].reshape(tall, STRIDE, wide, STRIDE, copy=False),
        found[4].reshape(tall, STRIDE, wide, STRIDE),
        where=held[:, None, :, None],
    )


def _masked(logits: NDArray[np.float32], ground: Bits | None) -> NDArray[np.float32]:
    """The logits with no seed off the ground; in place, where they may be written."""
    if ground is None or ground.all():
        return logits
    if not logits.flags.writeable:
        logits = logits.copy()
    rows, columns = ground.shape
    cells = logits[4].reshape(rows, STRIDE, columns, STRIDE)
    np.copyto(cells, NOWHERE, where=~ground[:, None, :, None])
    return logits


def _place(rect: Rect) -> tuple[slice, slice]:
    return slice(rect.y, rect.y + rect.height), slice(rect.x, rect.x + rect.width)


class _Cutter:
    """Finds boxes (y0, y1, x0, x1), in cells of the lattice, that cover a ground."""

    def __init__(self, ground: Bits, halo: int) -> None:
        self._ground, self._halo = ground, halo
        self._rows, self._columns = ground.shape
        self._known: dict[tuple[_Box, int], tuple[float, tuple[_Box, ...]]] = {}

    def boxes(self) -> tuple[_Box, ...]:
        """Return boxes that share no cell and between them have all of the ground."""
        rows, columns = np.flatnonzero(self._ground.any(1)), np.flatnonzero(self._ground.any(0))
        box = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
        if self._needed() + _CALL >= _GOOD * float(self._cost(*box)):
            return (box,)
        return self._best(box, _DEPTH)[1]

    def patch(self, box: _Box) -> Patch:
        """Return the box as a patch, with its halo as far as the tile goes."""
        y0, y1, x0, x1 = box
        top, bottom = max(0, y0 - self._halo), min(self._rows, y1 + self._halo)
        left, right = max(0, x0 - self._halo), min(self._columns, x1 + self._halo)
        return Patch(_rect(top, bottom, left, right), _rect(y0, y1, x0, x1))

    def _needed(self) -> float:
        """How many cells lie within a halo of the ground: no patches have fewer."""
        reach = 2 * self._halo + 1
        sums = np.zeros((self._rows + reach, self._columns + reach), np.int32)
        padded = np.pad(self._ground, self._halo)
        np.cumsum(np.cumsum(padded, axis=0, dtype=np.int32), axis=1, out=sums[1:, 1:])
        rows = sums[reach:] - sums[:-reach]
        return float(np.count_nonzero(rows[:, reach:] > rows[:, :-reach]))

    def _cost(self, y0: _Edge, y1: _Edge, x0: _Edge, x1: _Edge) -> NDArray[np.float64]:
        high = np.minimum(self._rows, y1 + self._halo) - np.maximum(0, y0 - self._halo)
        wide = np.minimum(self._columns, x1 + self._halo) - np.maximum(0, x0 - self._halo)
        cost: NDArray[np.float64] = high * wide + _CALL
        return cost

    def _best(self, box: _Box, depth: int) -> tuple[float, tuple[_Box, ...]]:
        """The least cost that was found for the ground in a box, and its boxes."""
        if (box, depth) in self._known:
            return self._known[box, depth]
        alone = float(self._cost(*box))
        best: tuple[float, tuple[_Box, ...]] = alone, (box,)
        # Each of two would cost a call and a halo.
        if depth and alone > 2 * (_CALL + (self._halo + 1) ** 2):
            for cost, one, other in self._cuts(box):
                if cost >= _PATIENCE * alone:
                    break
                first = self._best(one, depth - 1)
                if first[0] < best[0]:
                    second = self._best(other, depth - 1)
                    if first[0] + second[0] < best[0]:
                        best = first[0] + second[0], (*first[1], *second[1])
        self._known[box, depth] = best
        return best

    def _cuts(self, box: _Box) -> list[tuple[float, _Box, _Box]]:
        """The most promising ways to cut a box in two, the cheapest first: what both cost, and the two."""
        y0, y1, x0, x1 = box
        part = self._ground[y0:y1, x0:x1]
        found = []
        if y1 - y0 > 1:
            one, other = _halves(part, y0, x0)
            cost = self._cost(*one) + self._cost(*other)
            found += [(float(cost[at]), _box(one, at), _box(other, at)) for at in _least(cost - self._promise(part))]
        if x1 - x0 > 1:
            one, other = (_turned(half) for half in _halves(part.T, x0, y0))
            cost = self._cost(*one) + self._cost(*other)
            found += [(float(cost[at]), _box(one, at), _box(other, at)) for at in _least(cost - self._promise(part.T))]
        return sorted(found, key=lambda cut: cut[0])

    def _promise(self, part: Bits) -> NDArray[np.int64]:
        """What the next cuts may save after one between rows: much, where a bar ends and pillars begin."""
        change: NDArray[np.int64] = np.abs(np.diff(np.count_nonzero(part, axis=1)))
        return change * self._halo


def _halves(part: Bits, top: int, left: int) -> tuple[_Boxes, _Boxes]:
    """The boxes around what lies above and below each cut between rows of `part`, which begins at `top` and `left`.

    The first and the last row are not empty, so no half is.
    """
    rows, columns = part.shape
    at, some = np.arange(rows), part.any(axis=1)
    first = np.where(some, part.argmax(axis=1), columns)
    last = np.where(some, columns - part[:, ::-1].argmax(axis=1), 0)
    end, begin = np.where(some, at + 1, 0), np.where(some, at, rows)
    zero = np.zeros(rows - 1, np.int64)
    above = (
        top + zero,
        top + np.maximum.accumulate(end)[:-1],
        left + np.minimum.accumulate(first)[:-1],
        left + np.maximum.accumulate(last)[:-1],
    )
    below = (
        top + np.minimum.accumulate(begin[::-1])[::-1][1:],
        top + rows + zero,
        left + np.minimum.accumulate(first[::-1])[::-1][1:],
        left + np.maximum.accumulate(last[::-1])[::-1][1:],
    )
    return above, below


def _turned(boxes: _Boxes) -> _Boxes:
    return boxes[2], boxes[3], boxes[0], boxes[1]


def _box(boxes: _Boxes, at: int) -> _Box:
    return int(boxes[0][at]), int(boxes[1][at]), int(boxes[2][at]), int(boxes[3][at])


def _least(cost: NDArray[np.float64]) -> list[int]:
    """Where the least costs are, some way apart."""
    chosen: list[int] = []
    left = cost.copy()
    while len(chosen) < _PLACES and np.isfinite(left[at := int(left.argmin())]):
        chosen.append(at)
        left[max(0, at - _APART + 1) : at + _APART] = np.inf
    return chosen


def _rect(y0: int, y1: int, x0: int, x1: int) -> Rect:
    """A box of cells in pixels."""
    return Rect(x0 * STRIDE, y0 * STRIDE, (x1 - x0) * STRIDE, (y1 - y0) * STRIDE)
