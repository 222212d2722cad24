"""The pictures of a job, drawn and encoded beside its other files.

Promises: the same mask, slide and cells give the same bytes; each file is told of when it is whole. Refuses: to hold
more of a slide than a thumbnail.
"""

from __future__ import annotations

from collections.abc import Callable
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

# Told of a file as soon as nothing more will be written to it, in the thread that wrote it.
Whole = Callable[[Path], None]

# One for all jobs of this process: OpenCV loads its letters anew in each thread that writes some, which takes longer
# than a picture.
_painter = ThreadPoolExecutor(1, thread_name_prefix="pictures")
# What needs no letters: encoding takes as long as drawing.
_encoders = ThreadPoolExecutor(2, thread_name_prefix="encode")


class Pictures:
    """One job's pictures, drawn and encoded in threads; a context manager. What that raises comes with the next call,
    or at the end.
    """

    def __init__(
        self,
        slide: Path,
        width: int,
        mask: TissueMask,
        folder: Path,
        picture: NDArray[np.uint8] | None = None,
        whole: Whole = lambda _path: None,
    ) -> None:
        """`width`: the slide's level-0 pixels; `mask`: of the part of it that the job is about; `picture`: the slide at
        `PREVIEW_PIXELS`, if it is known already; `whole(path)` is told of each file.
        """
        self._slide, self._width, self._mask, self._folder = slide, width, mask, folder
        self._picture = picture
        self._whole = whole
        self._canvas: Future[Preview] | None = None
        # The slide as small as it is shown beside the others.
        self._plain: Future[NDArray[np.uint8]] | None = None
        # The last thing that was drawn on it, and what is encoded, or brings that about.
        self._drawing: Future[Any] | None = None
        self._encoding: list[Future[Any]] = []

    def __enter__(self) -> Pictures:
        """Begin to draw. Raises `UnreadableSlide`."""
        # Not in the painter's time: where there is no picture yet, others would wait for this slide to be decoded.
        picture = _thumbnail(self._slide) if self._picture is None else self._picture
        self._drawing = self._canvas = _painter.submit(self._begin, picture)
        self._plain = _encoders.submit(reduced, picture, COMBINED_PIXELS)
        self._encode("thumbnail.jpg", lambda path: save_jpeg(reduced(picture, THUMBNAIL_PIXELS), path))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Whatever is still written is written before the folder is anybody else's. What one brings about comes later
        # in the list.
        failures = [] if self._drawing is None else [self._drawing.exception()]
        at = 0
        while at < len(self._encoding):
            failures.append(self._encoding[at].exception())
            at += 1
        if error is None:
            for failure in filter(None, failures):
                raise failure

    def mask(self, outline: TissueOutline | None) -> None:
        """Begin to write the tissue as a picture and as polygons, and what was drawn as it was drawn."""
        mask = self._mask
        self._encode("tissue.geojson", lambda path: _put(path, geojson(mask)))
        self._encode("tissue_mask.png", lambda path: _put(path, encode_png(mask)))
        if outline is not None:
            document = outline.document
            self._encode("tissue_drawn.geojson", lambda path: _put(path, document))

    def cells(self, cells: Outlines) -> None:
        """Draw the cells of one tile, once those before it are drawn."""
        self._drawing = _painter.submit(self._drawn().cells, cells)

    def finish(self, density: Density) -> None:
        """Begin to write what shows all cells; but for `overlay`."""
        assert self._canvas is not None, "entered"
        self._encode("density.tif", density.save_tiff)
        # The painter does one thing after the other: the last cells are drawn before.
        self._encoding.append(_painter.submit(self._show, self._canvas.result(), density))

    def overlay(self) -> None:
        """Begin to write the tissue, and the cells if there are any, over the slide."""
        self._encode("overlay.jpg", self._drawn().save)

    def _encode(self, name: str, write: Callable[[Path], None]) -> None:
        def encode() -> None:
            path = self._folder / name
            write(path)
            self._whole(path)

        self._encoding.append(_encoders.submit(encode))

    def _drawn(self) -> Preview:
        """The canvas, with all on it that was to be drawn so far."""
        assert self._canvas is not None, "entered"
        assert self._drawing is not None, "entered"
        self._drawing.result()
        return self._canvas.result()

    def _begin(self, picture: NDArray[np.uint8]) -> Preview:
        preview = Preview(picture, self._width)
        preview.tissue(self._mask.bits)
        return preview

    def _show(self, preview: Preview, density: Density) -> None:
        """Draw the pictures with letters, and have them encoded."""
        legend = density.picture_with_legend()
        self._encode("density.png", lambda path: density.save_png(path, legend))
        assert self._plain is not None, "entered"
        plain, drawn = self._plain.result(), reduced(preview.picture, COMBINED_PIXELS)
        shown = density.with_legend(density.picture(plain.shape[1], plain.shape[0]))
        panels = side_by_side((("slide", plain), ("tissue and cells", drawn), ("density", shown)))
        self._encode("combined.jpg", lambda path: save_jpeg(panels, path))


def warm_up() -> None:
    """Have the letters loaded, so that the first job does not wait for them."""
    density = CellCounts(64, 64, None).density()
    _painter.submit(density.with_legend, density.picture(64, 64)).result()


def _put(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _thumbnail(slide: Path) -> NDArray[np.uint8]:
    """The thumbnail to draw on, uint8 RGB [h, w, 3]. Raises `UnreadableSlide`."""
    try:
        return cached_thumbnail(slide, PREVIEW_PIXELS)
    except FileNotFoundError as error:
        raise UnreadableSlide(f"There is no file {slide.name}.") from error
