"""All files of a job as one ZIP, written while it is sent.

Promises: nothing is stored on the way and memory stays bounded, however slow the client (the next piece is made when
the last was taken) and however large the job (ZIP64); the same job gives the same bytes; a client that goes away ends
the work. Refuses: to begin when a file is missing; what was opened can be read to its end, also when it is deleted
meanwhile.
"""

from __future__ import annotations

import asyncio
import zipfile
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, Any

import orjson
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from microtome.artifacts import masks
from microtome.artifacts.masks import Tiling
from microtome.artifacts.store import ArtifactStore
from microtome.domain.state import Job

SUMMARY = "summary.json"
CELLS = "cells.parquet"
_BLOCK = 1 << 18
# These hold what is compressed already.
_STORED = (".parquet", ".png", ".jpg")
_FAST = 1
_LARGE = 1 << 30
# Drawing takes a core; downloads must not take them all.
_working = asyncio.Semaphore(2)

_README = """Results of the job {key} ({job_id}).
The slide is {slide_id}.

{listing}
masks/<row>-<column>.png
    Label images of the tiles that have cells: 16-bit greyscale, 0 is background.
{masks}"""
_MASKS = """    One pixel is one model pixel, {scale:g} level-0 pixels wide. A mask shows its tile with the halo, as
    the network saw it. Columns and rows of tiles lie so, in model pixels from the slide's upper left corner,
    c being the tile's column or row and s a cell's seed_x or seed_y:
        x: {across}
        y: {down}
    Each cell is in exactly one mask, the one of the tile that owns its seed; its label is its number,
    from 1, among the rows of cells.parquet that this tile owns. Holes are filled. Of a tile with more than
    65,535 cells the next ones are in <row>-<column>.2.png, labelled from 1.
"""
_NO_MASKS = "    This job looked for no cells, so there are none.\n"


@dataclass(frozen=True, slots=True)
class OpenFile:
    """An artifact, ready to be read."""

    name: str
    size_bytes: int
    file: IO[bytes]


class Archive:
    """A job's files, held open."""

    def __init__(self, store: ArtifactStore, job: Job) -> None:
        """Open everything. Blocks. Raises `NotFound`, OSError."""
        assert job.result is not None
        self._job = job
        self._open = ExitStack()
        self._files: list[OpenFile] = []
        with ExitStack() as opening:
            for artifact in job.result.artifacts:
                file = opening.enter_context(store.path(job.job_id, job.attempt, artifact.name).open("rb"))
                self._files.append(OpenFile(artifact.name, artifact.size_bytes, file))
            self._open = opening.pop_all()

    def close(self) -> None:
        """Close the files."""
        self._open.close()

    def pieces(self) -> Generator[bytes, None, None]:
        """The archive, piece by piece, each some 256 KiB. Blocks."""
        made = self._job.finished_at or datetime.fromtimestamp(0, UTC)
        sink = _Sink()
        with zipfile.ZipFile(sink, "w") as archive:
            tiling = self._tiling()
            archive.writestr(_entry("README.txt", made), self._readme(tiling))
            for each in self._files:
                yield from _copy(archive, sink, each, made)
            for name, png in self._masks(tiling):
                archive.writestr(_entry(f"masks/{name}", made), png)
                yield sink.take()
        yield sink.take()

    def _find(self, name: str) -> IO[bytes] | None:
        return next((each.file for each in self._files if each.name == name), None)

    def _tiling(self) -> Tiling | None:
        summary = self._find(SUMMARY)
        if summary is None:
            return None
        content: dict[str, Any] = orjson.loads(summary.read())
        summary.seek(0)
        return Tiling.of(content)

    def _masks(self, tiling: Tiling | None) -> Iterator[tuple[str, bytes]]:
        cells = self._find(CELLS)
        if cells is None or tiling is None:
            return
        cells.seek(0)
        for tile in masks.tiles(cells, tiling):
            yield tile.name, masks.png(masks.draw(tile, tiling))

    def _readme(self, tiling: Tiling | None) -> str:
        known = {
            CELLS: "GeoParquet 1.1: outlines in level-0 pixels; the canonical result.",
            "cells.geojson": "The same for QuPath, with measurements.",
            "cells.csv": "One row for each cell: its centre and measurements.",
            "cells.fgb": "FlatGeobuf with a spatial index, for viewers and range requests.",
            "density.png": "How many cells there are where, in colour.",
            "density.tif": "The same as numbers.",
            "combined.jpg": "The slide, its cells and their density side by side.",
            SUMMARY: "What was found, how, and what must be known about it.",
            "tissue_mask.png": "Where tissue is: white, one pixel for each of the mask.",
            "tissue.geojson": "The same as polygons in level-0 pixels, with their areas; opens in QuPath.",
            "tissue_drawn.geojson": "What somebody drew as tissue, as it was drawn; cells count by their seed.",
            "thumbnail.jpg": "The slide in small.",
            "overlay.jpg": "Preview: tissue and cells drawn over the slide.",
        }
        listing = "".join(f"{each.name}\n    {known.get(each.name, 'A file of this job.')}\n" for each in self._files)
        about = _NO_MASKS
        if tiling is not None and self._find(CELLS) is not None:
            across, down = tiling.places()
            about = _MASKS.format(scale=tiling.scale, across=across, down=down)
        spec = self._job.spec
        return _README.format(key=spec.key, job_id=spec.job_id, slide_id=spec.slide_id, listing=listing, masks=about)


class ArchiveResponse(StreamingResponse):
    """Sends an archive, and closes it however that ends."""

    def __init__(self, archive: Archive, headers: dict[str, str]) -> None:
        self._archive = archive
        self._stream = _stream(archive.pieces())
        super().__init__(self._stream, media_type="application/zip", headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._stream.aclose()
            self._archive.close()


async def _stream(pieces: Generator[bytes, None, None]) -> AsyncGenerator[bytes, None]:
    """Make each piece in a thread, when it is asked for."""
    step: asyncio.Task[bytes | None] | None = None
    try:
        while True:
            async with _working:
                step = asyncio.create_task(asyncio.to_thread(next, pieces, None))
                piece = await asyncio.shield(step)
            if piece is None:
                return
            if piece:
                yield piece
    finally:
        # A thread cannot be interrupted, and a generator that runs cannot be closed.
        if step is not None and not step.done():
            await asyncio.wait([step])
        pieces.close()


class _Sink:
    """What `zipfile` writes to: bytes wait here until they are taken."""

    def __init__(self) -> None:
        self._waiting = bytearray()

    def write(self, data: bytes) -> int:
        self._waiting += data
        return len(data)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    def take(self) -> bytes:
        taken, self._waiting = bytes(self._waiting), bytearray()
        return taken


def _copy(archive: zipfile.ZipFile, sink: _Sink, source: OpenFile, made: datetime) -> Iterator[bytes]:
    entry = _entry(source.name, made)
    source.file.seek(0)
    with archive.open(entry, "w", force_zip64=source.size_bytes > _LARGE) as target:
        while block := source.file.read(_BLOCK):
            target.write(block)
            yield sink.take()


def _entry(name: str, made: datetime) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, max((1980, 1, 1, 0, 0, 0), made.astimezone(UTC).timetuple()[:6]))
    entry.external_attr = 0o644 << 16
    entry.compress_type = zipfile.ZIP_STORED if name.endswith(_STORED) else zipfile.ZIP_DEFLATED
    # Not to be chosen for one entry by a public name before Python 3.13.
    entry._compresslevel = _FAST  # type: ignore[attr-defined]  # noqa: SLF001
    return entry
