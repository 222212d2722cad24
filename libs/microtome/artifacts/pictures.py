"""The pictures of a job, drawn side by side on two cores.

Promises: the same mask, slide and cells give the same bytes. Refuses: to hold more of a slide than a thumbnail.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from microtome.artifacts.density import Density
from microtome.artifacts.preview import Preview, reduced, save_jpeg, side_by_side
from microtome.errors import UnreadableSlide
from microtome.slides.thumbnail import cached_thumbnail
from microtome.tissue.mask import TissueMask
from microtome.tissue.outline import TissueOutline
from microtome.tissue.polygons import geojson
from microtome.tissue.store import encode_png

THUMBNAIL_PIXELS = 512
PREVIEW_PIXELS = 2048
COMBINED_PIXELS = 1024


def begin_pictures(slide: Path, width: int, mask: TissueMask, outline: TissueOutline | None, folder: Path) -> Preview:
    """Write mask and thumbnail; return the canvas for the cells, with the tissue's edge on it.

    `width`: the slide's level-0 pixels; `mask`: of the part of it that the job is about. Raises `UnreadableSlide`.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="pictures") as other:
        written = other.submit(_write_mask, mask, outline, folder)
        # A slide's jobs are merged one after the other, by this process or its like.
        picture = _picture(slide)
        preview = Preview(picture, width)
        preview.tissue(mask.bits)
        save_jpeg(reduced(picture, THUMBNAIL_PIXELS), folder / "thumbnail.jpg")
        written.result()
    return preview


def _write_mask(mask: TissueMask, outline: TissueOutline | None, folder: Path) -> None:
    (folder / "tissue_mask.png").write_bytes(encode_png(mask))
    (folder / "tissue.geojson").write_bytes(geojson(mask))
    if outline is not None:
        (folder / "tissue_drawn.geojson").write_bytes(outline.document)


def write_pictures(slide: Path, preview: Preview, density: Density, folder: Path) -> None:
    """Write what shows the cells, once all are on the canvas and counted. Raises `UnreadableSlide`."""
    with ThreadPoolExecutor(1, thread_name_prefix="pictures") as other:
        combined = other.submit(_write_combined, slide, preview, density, folder)
        preview.save(folder / "overlay.jpg")
        density.save_png(folder / "density.png")
        density.save_tiff(folder / "density.tif")
        combined.result()


def _write_combined(slide: Path, preview: Preview, density: Density, folder: Path) -> None:
    picture = reduced(_picture(slide), COMBINED_PIXELS)
    height, width = picture.shape[:2]
    drawn, shown = reduced(preview.picture, COMBINED_PIXELS), density.with_legend(density.picture(width, height))
    save_jpeg(
        side_by_side((("slide", picture), ("tissue and cells", drawn), ("density", shown))), folder / "combined.jpg"
    )


def _picture(slide: Path) -> NDArray[np.uint8]:
    """The thumbnail to draw on, uint8 RGB [h, w, 3]. Raises `UnreadableSlide`."""
    try:
        return cached_thumbnail(slide, PREVIEW_PIXELS)
    except FileNotFoundError as error:
        raise UnreadableSlide(f"There is no file {slide.name}.") from error
