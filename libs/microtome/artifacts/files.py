"""All files of cells, written together.

Promises: every tile's cells go into every file, in the order in which tiles come, so that the same results give the
same bytes; a file that fails ends the others. Files are written beside each other in threads, and beside the reading of
the next tile: writers are compiled code that lets others run. What each costs is counted.
Refuses: to hold more than two tiles' cells.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

from microtome.artifacts.flatgeobuf import CellsFlatGeobuf
from microtome.artifacts.formats import EVERY_JOBS
from microtome.artifacts.geojson import CellsGeoJson
from microtome.artifacts.geoparquet import CellsParquet
from microtome.artifacts.outlines import Outlines
from microtome.artifacts.table import CellsCsv
from microtome.segmentation.stains import Stain

# More would wait for the disk, or for each other's memory.
WRITERS = 2

_File: TypeAlias = CellsParquet | CellsGeoJson | CellsCsv | CellsFlatGeobuf


class CellFiles:
    """Some of cells.parquet, cells.geojson, cells.csv and cells.fgb in one folder; a context manager, whole when it
    closes.

    `seconds`: wall seconds that each file took.
    """

    def __init__(
        self,
        folder: Path,
        mpp: float | None,
        stain: Stain,
        properties: dict[str, Any],
        go_on: Callable[[], None] = lambda: None,
        formats: Collection[str] = EVERY_JOBS,
        whole: Callable[[Path], None] = lambda _path: None,
    ) -> None:
        """`mpp`: µm per level-0 pixel; `properties`: said in the metadata of the Parquet file; `go_on()` is called now
        and then while the files close, and what it raises ends that. `formats`: of `CELL_FORMATS`. `whole(path)` is
        told of each file that has closed as it should.
        """
        self._whole = whole
        self._go_on = go_on
        self._folder, self._mpp, self._stain, self._properties = folder, mpp, stain, properties
        self._formats = formats
        self._open = ExitStack()
        self._files: dict[str, _File] = {}
        self._writing: list[Future[None]] = []
        self.seconds: dict[str, float] = {}

    def __enter__(self) -> CellFiles:
        folder, stain = self._folder, self._stain
        with ExitStack() as opening:
            opened: dict[str, Callable[[Path], _File]] = {
                # They close from the last to the first: those that take their time last, when others are read already.
                "fgb": lambda path: CellsFlatGeobuf(path, stain, self._go_on),
                "parquet": lambda path: CellsParquet(path, self._properties, stain),
                "csv": lambda path: CellsCsv(path, self._mpp, stain),
                "geojson": lambda path: CellsGeoJson(path, stain, WRITERS),
            }
            for name, open_file in opened.items():
                if name in self._formats:
                    path = folder / f"cells.{name}"
                    file = open_file(path)
                    opening.push(self._closed(path))
                    # Each gives itself.
                    opening.enter_context(file)
                    self._files[f"cells.{name}"] = file
            # Closes after the last of them has written, and before the files close.
            self._writers = opening.enter_context(ThreadPoolExecutor(WRITERS, thread_name_prefix="cells"))
            self._open = opening.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._open.__exit__(kind, error, trace)
            return
        # What a writer raises now ends the files as what the caller raised would have.
        with self._open:
            self._wait()

    def _closed(self, path: Path) -> Callable[..., None]:
        """What is called after a file was closed, with what ended it."""

        def tell(kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
            if kind is None:
                self._whole(path)

        return tell

    def append(self, cells: Outlines) -> None:
        """Add the cells of one tile to every file. Raises what writing the tile before raised."""
        self._wait()
        # Text takes longest.
        files = reversed(self._files.items())
        self._writing = [self._writers.submit(self._write, name, file, cells) for name, file in files]

    def _wait(self) -> None:
        writing, self._writing = self._writing, []
        for future in writing:
            future.result()

    def _write(self, name: str, file: _File, cells: Outlines) -> None:
        began = time.perf_counter()
        file.append(cells)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
