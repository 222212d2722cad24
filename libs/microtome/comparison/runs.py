"""A run: the cells that somebody found on a slide, and what is known of the slide.

Promises: a folder (of `microtome segment`, or a job's downloaded files) or a single file of cells; what the summary
and the drawn tissue beside it say is known, nothing else.
Refuses: folders without cells, files of no known kind (`InvalidRequest`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from microtome.comparison.reading import LABEL_SUFFIXES, READERS, outlines_of, read_labels, read_seeds
from microtome.errors import InvalidRequest
from microtome.scoring.outlines import OutlineSet
from microtome.tissue.outline import TissueOutline, load_outline

# In a folder, the first of these that is there.
_IN_FOLDERS = ("cells.parquet", "cells.geojson", "labels.tif")


@dataclass(frozen=True, eq=False)
class Run:
    """Cells and facts. `outlines`: in level-0 pixels, or in pixels of `labels` where their scale is not known.

    `labels`: int32 [h, w], if the cells came as a label image; label i is outline i - 1. `facts`: the summary's, or
    nothing. `thumbnail`: of the whole slide, if there is one. `tissue`: what was drawn as tissue, if that is there.
    `seeds`: float64 [n, 2], level-0 pixels, if the file tells them.
    """

    path: Path
    outlines: OutlineSet
    labels: NDArray[np.int32] | None
    facts: dict[str, Any]
    thumbnail: Path | None
    tissue: TissueOutline | None = None
    seeds: NDArray[np.float64] | None = None

    @property
    def on_drawn_tissue(self) -> bool:
        """Whether only cells on tissue that somebody drew are in it, as the summary says."""
        return "drawn" in (self.facts.get("tissue") or {})

    @property
    def places(self) -> NDArray[np.float64]:
        """Where the cells count, float64 [n, 2]: their seeds, or the middles of their outlines where none are told."""
        return self.outlines.centre if self.seeds is None else self.seeds

    @property
    def in_level0(self) -> bool:
        """Whether it is known how the outlines lie on the slide."""
        return self.labels is None or "scale" in self.facts

    @property
    def region(self) -> tuple[float, float, float, float] | None:
        """Corners x0, y0, x1, y1 of the part of the slide that was looked at, level-0 pixels; None: all of it."""
        region = self.facts.get("region")
        if region is None:
            return None
        return region["x"], region["y"], region["x"] + region["width"], region["y"] + region["height"]


def read_run(path: Path) -> Run:
    """Read a run. Raises `InvalidRequest`."""
    if not path.exists():
        raise InvalidRequest(f"There is no {path}.")
    if path.is_dir():
        found = [path / name for name in _IN_FOLDERS if (path / name).is_file()]
        if not found:
            raise InvalidRequest(f"{path} has no cells: none of {', '.join(_IN_FOLDERS)}.")
        file = found[0]
    else:
        file = path
    facts = _facts(file.parent / "summary.json")
    thumbnail = file.parent / "thumbnail.jpg"
    suffix = file.suffix.lower()
    labels = seeds = None
    if suffix in READERS:
        outlines = READERS[suffix](file)
        seeds = read_seeds(file, float(facts["scale"])) if suffix == ".parquet" and "scale" in facts else None
    elif suffix in LABEL_SUFFIXES:
        labels = read_labels(file)
        outlines = outlines_of(labels, float(facts.get("scale", 1.0)))
    else:
        known = ", ".join(sorted([*READERS, *LABEL_SUFFIXES]))
        raise InvalidRequest(f"{file} is of no kind that can be compared ({known}).")
    # Of a file with other rows than cells it is not known which is whose.
    seeds = seeds if seeds is not None and len(seeds) == len(outlines) else None
    drawn = _drawn(file.parent / "tissue_drawn.geojson", facts)
    return Run(path, outlines, labels, facts, thumbnail if facts and thumbnail.is_file() else None, drawn, seeds)


def _drawn(path: Path, facts: dict[str, Any]) -> TissueOutline | None:
    """The tissue that the summary says was drawn, if it lies there. Raises `InvalidRequest` for any other."""
    drawn = (facts.get("tissue") or {}).get("drawn")
    if drawn is None or not path.is_file():
        return None
    try:
        outline = load_outline(path.read_bytes())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidRequest(f"{path} is not the tissue that was drawn: {error}") from error
    if outline.sha256 != drawn.get("sha256"):
        raise InvalidRequest(f"{path} is not the tissue that the summary beside it speaks of.")
    return outline


def _facts(summary: Path) -> dict[str, Any]:
    if not summary.is_file():
        return {}
    try:
        content = orjson.loads(summary.read_bytes())
    except ValueError as error:
        raise InvalidRequest(f"{summary} is not JSON: {error}") from error
    return {key: value for key, value in content.items() if value is not None} if isinstance(content, dict) else {}


def require_one_slide(a: Run, b: Run) -> tuple[str, ...]:
    """Raise `InvalidRequest` for runs that cannot be compared; return what could not be checked, in sentences."""
    if a.in_level0 != b.in_level0:
        image = b if a.in_level0 else a
        raise InvalidRequest(
            f"{image.path} is a label image, and nothing says how its pixels lie on the slide: keep the summary.json "
            "beside it, or compare two label images."
        )
    if not a.in_level0 and a.labels is not None and b.labels is not None and a.labels.shape != b.labels.shape:
        raise InvalidRequest(f"The label images differ in size: {a.labels.shape} and {b.labels.shape}.")
    _same(a, b, "slide_sha256", "are of different slides")
    for name in ("width", "height"):
        _same(a, b, name, "are of slides of different sizes")
    mpp = [float(run.facts["mpp"]) for run in (a, b) if "mpp" in run.facts]
    if len(mpp) == 2 and abs(mpp[0] / mpp[1] - 1) > 1e-6:
        raise InvalidRequest(f"The runs took the slide's pixels for {mpp[0]} and {mpp[1]} µm: they cannot be compared.")
    if "slide_sha256" in a.facts and "slide_sha256" in b.facts:
        return ()
    return ("Nothing says that both are of the same slide: there is no summary.json beside the cells.",)


def _same(a: Run, b: Run, name: str, what: str) -> None:
    of_a, of_b = a.facts.get(name), b.facts.get(name)
    if of_a is not None and of_b is not None and of_a != of_b:
        raise InvalidRequest(f"{a.path} and {b.path} {what} ({name}: {of_a} and {of_b}).")
