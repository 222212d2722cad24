"""cells.fgb: FlatGeobuf 3 with its spatial index, so that a viewer fetches what it shows by range requests.

A file is a header, a packed R-tree of the features' boxes, and the features, each a flatbuffer of its own. All cells
have the same fields, so a feature's layout is known beforehand and is filled in by compiled code. The index stands
before what it points to, and its size is only known at the end: features and boxes wait in nameless files beside the
target, and are put together when it closes.
Promises: features in the order in which cells arrive (along a Hilbert curve, which is what makes the tree good); memory
is bounded by one tile's cells and a sixteenth of the boxes; the same cells give the same bytes.
Refuses: anything but polygons of one ring.
"""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

import flatbuffers
import numba as nb
import numpy as np
from numpy.typing import NDArray

from microtome.artifacts.outlines import Outlines
from microtome.segmentation.measuring import measurements_of
from microtome.segmentation.stains import HE, Stain

MAGIC = b"fgb\x03fgb\x01"
NODE_SIZE = 16
_POLYGON = 3
_INT, _FLOAT, _DOUBLE, _STRING = 5, 9, 10, 11
# Boxes in double precision, then a byte offset or the number of the first child.
_NODE = np.dtype([("min_x", "<f8"), ("min_y", "<f8"), ("max_x", "<f8"), ("max_y", "<f8"), ("offset", "<u8")])
_CHUNK, _PIECE = 1 << 20, 64 << 20
_FIRST_COLUMNS = (("id", _STRING), ("area_px", _DOUBLE), ("score", _FLOAT))

# A feature's first 48 bytes, which end where its coordinates begin: its length (to be filled in), where its root is;
# the root's field offsets and the root: the geometry and its properties (to be filled in); the geometry's field offsets
# (no ends, as there is one ring; xy) and the geometry; and the number of coordinates (to be filled in).
_FEATURE = np.frombuffer(struct.pack("<IIHHHHiIIHHHHiII", 0, 12, 8, 12, 4, 8, 8, 16, 0, 8, 8, 0, 4, 8, 4, 0), np.uint8)
_COORDINATES = 48


class CellsFlatGeobuf:
    """Writes outlines as they come; a context manager. The file appears when it closes."""

    def __init__(self, path: Path, stain: Stain = HE, go_on: Callable[[], None] = lambda: None) -> None:
        """`stain`: what the measurements' columns are named after; `go_on()` is called every few megabytes while the
        file is put together, and what it raises ends that.
        """
        self._path, self._go_on = path, go_on
        self._columns = (*_FIRST_COLUMNS, *((each.column, _FLOAT) for each in measurements_of(stain)))
        # Without names: a process that is killed leaves nothing of them.
        self._features = tempfile.TemporaryFile(dir=path.parent, buffering=0)  # noqa: SIM115 - closed on exit
        self._boxes = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115
        self._count = 0
        self._size = 0

    def __enter__(self) -> CellsFlatGeobuf:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._features, self._boxes:
            if error is None:
                with self._path.open("wb", buffering=0) as target:
                    self._assemble(target)

    def append(self, cells: Outlines) -> None:
        """Add the cells of one tile."""
        count = len(cells)
        if not count:
            return
        measured = np.ascontiguousarray(cells.measured, "<f4")
        # Room for every property; those that could not be measured are left out.
        properties = 2 + 4 + cells.id_text.shape[1] + 2 + 8 + 2 + 4 + 6 * measured.shape[1]
        largest = _COORDINATES + 4 + properties + 7
        out = np.zeros(count * largest + 16 * (len(cells.points) + count), np.uint8)
        starts = np.empty(count + 1, np.int64)
        _fill(
            out, starts, _FEATURE, np.ascontiguousarray(cells.points, "<f8").view(np.uint8).reshape(-1, 16),
            cells.offsets, cells.id_text, np.ascontiguousarray(cells.area, "<f8").view(np.uint8).reshape(-1, 8),
            np.ascontiguousarray(cells.score, "<f4").view(np.uint8).reshape(-1, 4), measured,
            measured.view(np.uint8).reshape(*measured.shape, 4),
        )  # fmt: skip
        nodes = np.empty(count, _NODE)
        nodes["min_x"], nodes["min_y"] = cells.lower.T
        nodes["max_x"], nodes["max_y"] = cells.upper.T
        nodes["offset"] = self._size + starts[:-1]
        self._boxes.write(nodes.tobytes())
        _write_all(self._features, out[: starts[-1]].data)
        self._count += count
        self._size += int(starts[-1])

    def _assemble(self, target: IO[bytes]) -> None:
        self._boxes.flush()
        levels = _levels(self._boxes, self._count)
        root = levels[0][0] if levels else None
        envelope = [float(root[edge]) for edge in ("min_x", "min_y", "max_x", "max_y")] if root is not None else []
        _write_all(target, MAGIC)
        _write_all(target, _header(self._columns, self._count, envelope))
        for level in levels:
            _write_all(target, level.tobytes())
        for source in (self._boxes, self._features):
            source.seek(0)
            if self._count:
                _copy(source, target, self._go_on)


def _write_all(target: IO[bytes], data: bytes | memoryview) -> None:
    """Write everything: without a buffer in between, a write may stop halfway."""
    view = memoryview(data)
    while view:
        view = view[target.write(view) :]


def _copy(source: IO[bytes], target: IO[bytes], go_on: Callable[[], None]) -> None:
    """Copy to where `target` stands, by the system alone where it can."""
    size = os.fstat(source.fileno()).st_size
    done = 0
    while done < size:
        try:
            copied = os.copy_file_range(source.fileno(), target.fileno(), min(_PIECE, size - done), offset_src=done)
        except (OSError, AttributeError):  # not on this disk, or not on this system
            break
        if copied == 0:
            break
        done += copied
        go_on()
    source.seek(done)
    target.seek(0, os.SEEK_END)
    while block := source.read(_CHUNK):
        _write_all(target, block)
        go_on()


def _levels(boxes: IO[bytes], count: int) -> list[NDArray[np.void]]:
    """The inner nodes of the tree over `count` boxes in a file, the root's level first."""
    if not count:
        return []
    level = _parents_of_file(boxes, count)
    levels = [level]
    while len(level) > 1:
        level = _parents(level)
        levels.insert(0, level)
    # A node's offset is the number of its first child among all nodes; the levels stand one after the other.
    start = 0
    for level in levels:
        start += len(level)
        level["offset"] = start + NODE_SIZE * np.arange(len(level))
    return levels


def _parents_of_file(boxes: IO[bytes], count: int) -> NDArray[np.void]:
    boxes.seek(0)
    step = NODE_SIZE * 4096
    parts = [
        _parents(np.frombuffer(boxes.read(min(step, count - start) * _NODE.itemsize), _NODE))
        for start in range(0, count, step)
    ]
    return np.concatenate(parts)


def _parents(nodes: NDArray[np.void]) -> NDArray[np.void]:
    """One node around each `NODE_SIZE` nodes; their offsets are not set."""
    firsts = np.arange(0, len(nodes), NODE_SIZE)
    parents = np.zeros(len(firsts), _NODE)
    for edge, least in (("min_x", np.minimum), ("min_y", np.minimum), ("max_x", np.maximum), ("max_y", np.maximum)):
        parents[edge] = least.reduceat(nodes[edge], firsts)
    return parents


def _header(columns: Sequence[tuple[str, int]], count: int, envelope: list[float]) -> bytes:
    """The header table with its size before it."""
    builder = flatbuffers.Builder(1024)
    tables = []
    for name, kind in columns:
        text = builder.CreateString(name)
        builder.StartObject(11)
        builder.PrependUOffsetTRelativeSlot(0, text, 0)
        builder.PrependUint8Slot(1, kind, 0)
        tables.append(builder.EndObject())
    builder.StartVector(4, len(tables), 4)
    for table in reversed(tables):
        builder.PrependUOffsetTRelative(table)
    column_vector = builder.EndVector()
    builder.StartVector(8, len(envelope), 8)
    for value in reversed(envelope):
        builder.PrependFloat64(value)
    envelope_vector = builder.EndVector()
    name, described = builder.CreateString("cells"), builder.CreateString("level-0 pixels of the slide, y down")
    builder.StartObject(14)
    builder.PrependUOffsetTRelativeSlot(0, name, 0)
    if envelope:
        builder.PrependUOffsetTRelativeSlot(1, envelope_vector, 0)
    builder.PrependUint8Slot(2, _POLYGON, 0)
    builder.PrependUOffsetTRelativeSlot(7, column_vector, 0)
    builder.PrependUint64Slot(8, count, 0)
    # Without features there is no index.
    builder.PrependUint16Slot(9, NODE_SIZE if count else 0, NODE_SIZE)
    builder.PrependUOffsetTRelativeSlot(12, described, 0)
    builder.FinishSizePrefixed(builder.EndObject())
    return bytes(builder.Output())


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _put_u32(out: NDArray[np.uint8], at: int, value: int) -> None:
    for byte in range(4):
        out[at + byte] = (value >> (8 * byte)) & 255


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _fill(
    out: NDArray[np.uint8],
    starts: NDArray[np.int64],
    feature: NDArray[np.uint8],
    coordinates: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    ids: NDArray[np.uint8],
    area: NDArray[np.uint8],
    score: NDArray[np.uint8],
    measured: NDArray[np.float32],
    measured_bytes: NDArray[np.uint8],
) -> None:
    """Lay out all features one after the other in `out`, which is all zeros; where each begins goes into `starts`."""
    at = 0
    for index in range(ids.shape[0]):
        start, first, last = at, offsets[index], offsets[index + 1]
        starts[index] = start
        out[at : at + 48] = feature
        _put_u32(out, at + 44, 2 * (last - first + 1))
        at += 48
        for point in range(first, last):
            out[at : at + 16] = coordinates[point]
            at += 16
        out[at : at + 16] = coordinates[first]
        at += 16
        # The root's second field, 24 bytes from the start, says how far it is to the properties.
        _put_u32(out, start + 24, at - (start + 24))
        length_at = at
        at += 4
        # Column 0, a text.
        _put_u32(out, at + 2, ids.shape[1])
        at += 6
        out[at : at + ids.shape[1]] = ids[index]
        at += ids.shape[1]
        out[at] = 1
        out[at + 2 : at + 10] = area[index]
        out[at + 10] = 2
        out[at + 12 : at + 16] = score[index]
        at += 16
        for column in range(measured.shape[1]):
            if np.isfinite(measured[index, column]):
                out[at] = 3 + column
                out[at + 2 : at + 6] = measured_bytes[index, column]
                at += 6
        _put_u32(out, length_at, at - length_at - 4)
        # So that the next feature's coordinates, too, begin at a multiple of eight bytes.
        at += (start - at) % 8
        _put_u32(out, start, at - start - 4)
    starts[ids.shape[0]] = at
