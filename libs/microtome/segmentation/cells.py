"""The cells of one tile, and the file that keeps them.

Promises: a cell is in the tile whose core holds its seed pixel and in no other; its id is that pixel's position on
the slide, so running a tile again gives the same rows. A file is there whole or not at all (written aside, synced,
renamed), can be read back without loss, and having no cells is a result like any other.
Refuses: cells smaller than the model's minimum, judged after ownership; files that are not its own
(`InvalidRequest`).
"""

from __future__ import annotations

import errno
import json
import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from microtome.errors import InvalidRequest, MicrotomeError
from microtome.segmentation.contours import trace_contours
from microtome.segmentation.grid import Rect, Tile
from microtome.segmentation.head import find_instances
from microtome.segmentation.measuring import MEASUREMENTS, measure_cells
from microtome.segmentation.model import Model
from microtome.segmentation.patches import View
from microtome.segmentation.stains import HE, Stain, stain_named

_SCHEMA = pa.schema(
    [
        pa.field("seed_y", pa.int32(), nullable=False),
        pa.field("seed_x", pa.int32(), nullable=False),
        pa.field("area_px", pa.int32(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        # Steps from point to point, the first from the seed: small numbers, of which zstd leaves little.
        pa.field("ring", pa.list_(pa.field("item", pa.int32(), nullable=False)), nullable=False),
        pa.field("measurements", pa.list_(pa.field("item", pa.float32(), nullable=False), len(MEASUREMENTS)), False),
    ]
)
_FORMAT = b"microtome.cells/2"


class NoRoom(MicrotomeError):
    """The disk of the result store is full; make room, the work goes on by itself."""

    code = "no-room"
    transient = True


@dataclass(frozen=True, eq=False)
class TileCells:
    """Cells of one tile, sorted by seed (y, then x), in model pixels of the whole slide.

    `seed_y`, `seed_x`, `area_px` int32 [n]; `score` float32 [n], the seed map's value at the seed;
    `ring_offsets` int32 [n + 1] into `ring_points` int32 [m, 2], (x, y) in half pixels, rings open (see `contours`).
    `measurements` float32 [n, len(MEASUREMENTS)], columns as in `measuring.measurements_of(stain)`, but lengths in
    model pixels (`measuring.in_micrometres` converts them). Of the whole tile, whatever was `chosen` of it: `regrown`,
    how many cells needed a larger window than the model's, and `cut`, how many the largest did not hold.
    `network_px`: how many pixels went through the network for them, and `patches`: the parts of the tile whose logits
    each call gave. `seconds`: wall seconds per stage that made them; `engine`: what ran the network; `made_by`: the run
    whose time that was, as several may share one result. Empty where it is not known.
    """

    row: int
    column: int
    seed_y: NDArray[np.int32]
    seed_x: NDArray[np.int32]
    area_px: NDArray[np.int32]
    score: NDArray[np.float32]
    ring_offsets: NDArray[np.int32]
    ring_points: NDArray[np.int32]
    measurements: NDArray[np.float32]
    seconds: Mapping[str, float] = field(default_factory=dict)
    stain: Stain = HE
    regrown: int = 0
    cut: int = 0
    network_px: int = 0
    patches: tuple[Rect, ...] = ()
    engine: str = ""
    made_by: str = ""

    def __len__(self) -> int:
        return int(self.seed_y.size)

    def ring(self, index: int) -> NDArray[np.int32]:
        """Outline of one cell: int32 [k, 2] of (x, y) in half pixels."""
        return self.ring_points[self.ring_offsets[index] : self.ring_offsets[index + 1]]

    def chosen(self, which: NDArray[np.bool_]) -> TileCells:
        """Return those cells for which `which`, bool [n], is true, in the same order."""
        lengths = np.diff(self.ring_offsets)
        return replace(
            self,
            seed_y=self.seed_y[which],
            seed_x=self.seed_x[which],
            area_px=self.area_px[which],
            score=self.score[which],
            ring_offsets=np.concatenate([[0], np.cumsum(lengths[which])]).astype(np.int32),
            ring_points=self.ring_points[np.repeat(which, lengths)],
            measurements=self.measurements[which],
        )

    def with_seconds(self, seconds: Mapping[str, float]) -> TileCells:
        """Return the same cells with more stages' seconds."""
        return replace(self, seconds={**self.seconds, **seconds})

    def seen(self, view: View, tile: Tile) -> TileCells:
        """Return the same cells of `tile` with how it was looked at."""
        at = tile.padded
        patches = tuple(
            Rect(at.x + taken.x, at.y + taken.y, taken.width, taken.height)
            for taken in (patch.taken for patch in view.patches)
        )
        return replace(self, network_px=view.pixels, patches=patches)

    def made(self, engine: str, by: str) -> TileCells:
        """Return the same cells with the name of the engine and of the run that made them."""
        return replace(self, engine=engine, made_by=by)


def segment_tile(
    logits: NDArray[np.float32],
    tile: Tile,
    model: Model,
    pixels: NDArray[np.uint8],
    stain: Stain = HE,
    threads: int = 1,
) -> TileCells:
    """Find and measure the cells that `tile` owns, from its logits, float32 [5, h, w], and its pixels, uint8 [h, w, 3],
    both of `tile.padded`. They are the same whatever the number of `threads`.
    """
    began = time.perf_counter()
    valid, core = tile.valid, tile.core
    # What lies outside the slide is a reflection: it is context for the network, not a place for cells.
    top, left = valid.y - tile.padded.y, valid.x - tile.padded.x
    slide = np.s_[top : top + valid.height, left : left + valid.width]
    # What is above and to the left of it would have to be copied, but tiles begin on the slide.
    found = find_instances(logits[:, top:, left:], model, size=(valid.height, valid.width), threads=threads)
    seed_y, seed_x = found.seed[:, 0] + np.int32(valid.y), found.seed[:, 1] + np.int32(valid.x)
    owned = (seed_y >= core.y) & (seed_y < core.y + core.height) & (seed_x >= core.x) & (seed_x < core.x + core.width)
    grown = time.perf_counter()
    label, box = found.label[owned], found.box[owned]
    area, offsets, points = trace_contours(found.labels, label, box, threads)
    traced = time.perf_counter()
    measured = measure_cells(found.labels, label, box, area, offsets, points, pixels[slide], stain, threads)
    kept = area >= model.min_size
    points += np.array([2 * valid.x, 2 * valid.y], np.int32)
    cells = TileCells(
        row=tile.row,
        column=tile.column,
        seed_y=seed_y[owned],
        seed_x=seed_x[owned],
        area_px=area,
        score=found.score[owned],
        ring_offsets=offsets,
        ring_points=points,
        measurements=measured,
        stain=stain,
        regrown=int(found.regrown[owned][kept].sum()),
        cut=int(found.cut[owned][kept].sum()),
    ).chosen(kept)
    seconds = {"head": grown - began, "contours": traced - grown, "measure": time.perf_counter() - traced}
    return cells.with_seconds(seconds)


def write_cells(cells: TileCells, path: Path, *, durable: bool = True) -> None:
    """Write an Arrow IPC file; `path` appears whole, and survives a crash once this returns.

    Without `durable` it survives the end of this process, but not that of the machine, and costs no wait for the disk.
    Raises `NoRoom` when the disk is full.
    """
    try:
        _write(cells, path, durable)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise NoRoom(f"The disk is full: no room for the cells of a tile in {path.parent}.") from error
        raise


def _write(cells: TileCells, path: Path, durable: bool) -> None:
    steps = np.diff(cells.ring_points, axis=0, prepend=np.zeros((1, 2), np.int32))
    lengths = np.diff(cells.ring_offsets)
    first = cells.ring_offsets[:-1][lengths > 0]
    steps[first] = cells.ring_points[first] - _half_pixels(cells.seed_x, cells.seed_y)[lengths > 0]
    rings = pa.ListArray.from_arrays(
        pa.array(cells.ring_offsets * np.int32(2), pa.int32()),
        pa.array(steps.ravel(), pa.int32()),
        type=_SCHEMA.field("ring").type,
    )
    measured = pa.FixedSizeListArray.from_arrays(
        pa.array(np.ascontiguousarray(cells.measurements, np.float32).ravel()),
        type=_SCHEMA.field("measurements").type,
    )
    metadata = {
        b"format": _FORMAT,
        b"row": str(cells.row).encode(),
        b"column": str(cells.column).encode(),
        b"stain": cells.stain.key.encode(),
        b"regrown": str(cells.regrown).encode(),
        b"cut": str(cells.cut).encode(),
        b"network_px": str(cells.network_px).encode(),
        b"patches": json.dumps([[rect.x, rect.y, rect.width, rect.height] for rect in cells.patches]).encode(),
        b"seconds": json.dumps(dict(cells.seconds), sort_keys=True).encode(),
        b"engine": cells.engine.encode(),
        b"made_by": cells.made_by.encode(),
    }
    columns = [pa.array(column) for column in (cells.seed_y, cells.seed_x, cells.area_px, cells.score)]
    schema = _SCHEMA.with_metadata(metadata)
    batch = pa.record_batch([*columns, rings, measured], schema=schema)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with aside.open("wb") as file:
            with pa.ipc.new_file(file, schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
                writer.write_batch(batch)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    if not durable:
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_cells(path: Path) -> TileCells:
    """Read what `write_cells` wrote. Raises `FileNotFoundError`, or `InvalidRequest` for another kind of file."""
    with pa.OSFile(str(path), "rb") as file:
        # Damage shows as many things, from a missing end to a length that memory cannot hold.
        try:
            return _parsed(pa.ipc.open_file(file).read_all(), path)
        except (pa.ArrowException, OSError, ValueError, LookupError, TypeError, MemoryError) as error:
            raise InvalidRequest(f"{path} is not a file of cells: {error}") from error


def _parsed(table: pa.Table, path: Path) -> TileCells:
    metadata = table.schema.metadata or {}
    if metadata.get(b"format") != _FORMAT or not table.schema.equals(_SCHEMA):
        raise InvalidRequest(f"{path} is not a file of cells of this version.")
    columns = {name: table.column(name).combine_chunks() for name in table.schema.names}
    seed_y, seed_x = columns["seed_y"].to_numpy(), columns["seed_x"].to_numpy()
    offsets = columns["ring"].offsets.to_numpy()
    offsets = ((offsets - offsets[0]) // 2).astype(np.int32)
    walked = np.cumsum(columns["ring"].flatten().to_numpy().reshape(-1, 2), axis=0, dtype=np.int64)
    # Where the walk over all rings stood before each one began.
    before = np.vstack([np.zeros((1, 2), np.int64), walked])[offsets[:-1]]
    start = _half_pixels(seed_x, seed_y) - before
    return TileCells(
        row=int(metadata[b"row"]),
        column=int(metadata[b"column"]),
        seed_y=seed_y,
        seed_x=seed_x,
        area_px=columns["area_px"].to_numpy(),
        score=columns["score"].to_numpy(),
        ring_offsets=offsets,
        ring_points=(walked + np.repeat(start, np.diff(offsets), axis=0)).astype(np.int32),
        measurements=columns["measurements"].flatten().to_numpy().reshape(-1, len(MEASUREMENTS)),
        seconds=json.loads(metadata[b"seconds"]),
        stain=stain_named(metadata[b"stain"].decode()),
        regrown=int(metadata[b"regrown"]),
        cut=int(metadata[b"cut"]),
        network_px=int(metadata.get(b"network_px", b"0")),
        patches=tuple(Rect(*map(int, sides)) for sides in json.loads(metadata.get(b"patches", b"[]"))),
        # Files of before this was kept do not say.
        engine=metadata.get(b"engine", b"").decode(),
        made_by=metadata.get(b"made_by", b"").decode(),
    )


def _half_pixels(seed_x: NDArray[np.int32], seed_y: NDArray[np.int32]) -> NDArray[np.int32]:
    """Upper left corners of the seeds' pixels as rings have them: (x, y) in half pixels, int32 [n, 2]."""
    return np.stack([seed_x, seed_y], axis=1) * np.int32(2)
