"""Which formats there are, and how one is written.

Promises: a target is written aside and renamed when it is complete. Refuses: targets that exist (`Conflict`); formats
whose libraries are missing (`ConfigurationError`), before anything is written.
"""

from __future__ import annotations

import importlib.util
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from microtome.artifacts.exports.archive import write_masks
from microtome.artifacts.exports.job import JobFiles
from microtome.artifacts.exports.ranges import write_flatgeobuf
from microtome.errors import ConfigurationError, Conflict, InvalidRequest


@dataclass(frozen=True, slots=True)
class Format:
    """One format. `target`: its file or folder; `needs`: libraries of the extra `spatial`."""

    target: str
    what: str
    needs: tuple[str, ...]
    write: Callable[[JobFiles, Path], None]


def _pyramid(job: JobFiles, target: Path) -> None:
    from microtome.artifacts.exports.pyramid import write_label_pyramid

    write_label_pyramid(job, target)


def _anndata(job: JobFiles, target: Path) -> None:
    from microtome.artifacts.exports.tables import write_anndata

    write_anndata(job, target)


def _spatialdata(job: JobFiles, target: Path) -> None:
    from microtome.artifacts.exports.spatial import write_spatialdata

    write_spatialdata(job, target)


FORMATS = {
    "fgb": Format("cells.fgb", "FlatGeobuf with a spatial index, for viewers by range requests", (), write_flatgeobuf),
    "masks": Format("masks.zip", "label images of the tiles, with a manifest of where they lie", (), write_masks),
    "ome-zarr": Format("cells.ome.zarr", "one label image with its pyramid (OME-NGFF 0.4)", ("zarr",), _pyramid),
    "anndata": Format("cells.h5ad", "measurements as an AnnData table", ("anndata",), _anndata),
    "spatialdata": Format(
        "cells.spatialdata.zarr",
        "labels, outlines and measurements as SpatialData",
        ("anndata", "spatialdata", "zarr"),
        _spatialdata,
    ),
}


def export(folder: Path, name: str, target: Path | None = None) -> Path:
    """Write the format called `name` of the job whose files are in `folder`; return where it is.

    `target`: a path that does not exist (default: the format's own name, in the folder). Raises `InvalidRequest`,
    `Conflict`, `ConfigurationError`.
    """
    if name not in FORMATS:
        raise InvalidRequest(f"There is no format '{name}'; there are {', '.join(FORMATS)}.")
    chosen = FORMATS[name]
    job = JobFiles.at(folder)
    missing = [library for library in chosen.needs if importlib.util.find_spec(library) is None]
    if missing:
        raise ConfigurationError(
            f"The format {name} needs libraries that are not installed ({', '.join(missing)}). "
            "In a checkout: make setup-dev. Elsewhere the extra microtome[spatial] of the installed package has them."
        )
    target = target or folder / chosen.target
    if target.exists():
        raise Conflict(f"{target} is there already; remove it, or choose another place.")
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        chosen.write(job, aside)
        aside.rename(target)
    except BaseException:
        if aside.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
        aside.unlink(missing_ok=True)
        raise
    return target
