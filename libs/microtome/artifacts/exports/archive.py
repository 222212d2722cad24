"""masks.zip: a label image of each tile, and a manifest of where they lie.

Promises: 16-bit PNG in model pixels as `microtome.artifacts.masks` draws them, one tile in memory; the same job gives
the same bytes. Refuses: nothing that has cells.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import orjson

from microtome.artifacts import masks
from microtome.artifacts.exports.job import JobFiles


def write_masks(job: JobFiles, target: Path) -> None:
    """Write the archive."""
    places = []
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for tile in job.tiles():
            archive.writestr(_entry(f"masks/{tile.name}"), masks.png(masks.draw(tile, job.tiling)))
            places.append(masks.place(tile, job.tiling))
        manifest = {
            "pixels": "16-bit labels from 1 in the order of cells.parquet within the tile; 0 is background",
            "level0_pixels_per_pixel": job.tiling.scale,
            "um_per_pixel": job.model_mpp,
            "width": job.tiling.grid.width,
            "height": job.tiling.grid.height,
            "masks": places,
        }
        archive.writestr(_entry("masks/manifest.json"), orjson.dumps(manifest, option=orjson.OPT_INDENT_2))


def _entry(name: str) -> zipfile.ZipInfo:
    # Without a time: the same job gives the same bytes.
    entry = zipfile.ZipInfo(name)
    entry.external_attr = 0o644 << 16
    return entry
