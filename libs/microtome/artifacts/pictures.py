"""The pictures of a job, drawn beside its other files.

Promises: the same mask, slide and cells give the same bytes. Refuses: to hold more of a slide than a thumbnail.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microtome.artifacts.density import CellCounts, Density
from microtome.artifacts.outlines import Outlines
from microtome.artifacts.preview import Preview, reduced, save_jpeg, side_by_side
from microtome.errors import UnreadableSlide
from microtome.slides.thumbnail import PREVIEW_PIXELS, cached_thumbnail
from microtome.tissue.mask import TissueMask
from microtome.tissue.outline import TissueOutline
from microtome.tissue.polygons import geojson
from microtome.tissue.store import encode_png

THUMBNAIL_PIXELS = 512
COMBINED_PIXELS = 1024

# One for all jobs of this process: OpenCV loads its letters anew in each thread that writes some, which takes longer
# than a picture.
_painter = ThreadPoolExecutor(1, thread_name_prefix="pictures")


class Pictures:
    """One job's pictures, drawn in a thread; a context manager. What drawing raises comes with the next call, or at
    the end.
    """

    def __init__(
        self, slide: Path, width: int, mask: TissueMask, folder: Path, picture: NDArray[np.uint8] | None = None
    ) -> None:
        """`width`: the slide's level-0 pixels; `mask`: of the part of it that the job is about; `picture`: the slide at
        `PREVIEW_PIXELS`, if it is known already.
        """
        self._slide, self._width, self._mask, self._folder = slide, width, mask, folder
        self._picture = picture
        self._canvas: Future[Preview] | None = None
        # The last thing that was drawn on it, and what comes after all cells.
        self._drawing: Future[Any] | None = None
        self._finishing: Future[None] | None = None

    def __enter__(self) -> Pictures:
        """Begin to draw. Raises `UnreadableSlide`."""
        # Not in the painter's time: where there is no picture yet, others would wait for this slide to be decoded.
        picture = _thumbnail(self._slide) if self._picture is None else self._picture
        self._drawing = self._canvas = _painter.submit(self._begin, picture)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Whatever is still written is written before the folder is anybody else's.
        failures = [drawn.exception() for drawn in (self._drawing, self._finishing) if drawn is not None]
        if error is None:
            for failure in filter(None, failures):
                raise failure

    def cells(self, cells: Outlines) -> None:
        """Draw the cells of one tile, once those before it are drawn."""
        self._drawing = _painter.submit(self._drawn().cells, cells)

    def finish(self, density: Density) -> None:
        """Begin to write what shows all cells; but for `overlay`."""
        assert self._canvas is not None, "entered"
        # The painter does one thing after the other: the last cells are drawn before.
        self._finishing = _painter.submit(_write_densities, self._canvas.result(), density, self._folder)

    def overlay(self) -> None:
        """Write the tissue, and the cells if there are any, over the slide."""
        self._drawn().save(self._folder / "overlay.jpg")

    def _drawn(self) -> Preview:
        """The canvas, with all on it that was to be drawn so far."""
        assert self._canvas is not None, "entered"
        assert self._drawing is not None, "entered"
        self._drawing.result()
        return self._canvas.result()

    def _begin(self, picture: NDArray[np.uint8]) -> Preview:
        preview = Preview(picture, self._width)
        preview.tissue(self._mask.bits)
        save_jpeg(reduced(picture, THUMBNAIL_PIXELS), self._folder / "thumbnail.jpg")
        return preview


def _write_densities(preview: Preview, density: Density, folder: Path) -> None:
    density.save_png(folder / "density.png")
    density.save_tiff(folder / "density.tif")
    plain, drawn = (reduced(picture, COMBINED_PIXELS) for picture in (preview.thumbnail, preview.picture))
    shown = density.with_legend(density.picture(plain.shape[1], plain.shape[0]))
    panels = (("slide", plain), ("tissue and cells", drawn), ("density", shown))
    save_jpeg(side_by_side(panels), folder / "combined.jpg")


def warm_up() -> None:
    """Have the letters loaded, so that the first job does not wait for them."""
    density = CellCounts(64, 64, None).density()
    _painter.submit(density.with_legend, density.picture(64, 64)).result()


def write_mask(mask: TissueMask, outline: TissueOutline | None, folder: Path) -> None:
    """Write the tissue as a picture and as polygons, and what was drawn as it was drawn."""
    (folder / "tissue_mask.png").write_bytes(encode_png(mask))
    (folder / "tissue.geojson").write_bytes(geojson(mask))
    if outline is not None:
        (folder / "tissue_drawn.geojson").write_bytes(outline.document)


def _thumbnail(slide: Path) -> NDArray[np.uint8]:
    """The thumbnail to draw on, uint8 RGB [h, w, 3]. Raises `UnreadableSlide`."""
    try:
        return cached_thumbnail(slide, PREVIEW_PIXELS)
    except FileNotFoundError as error:
        raise UnreadableSlide(f"There is no file {slide.name}.") from error
