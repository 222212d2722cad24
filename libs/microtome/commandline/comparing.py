"""`microtome compare`: how two runs over one slide differ.

Promises: numbers on stdout, a picture beside it; the first run is the measure.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microtome.commandline.declaring import Commands, declare

if TYPE_CHECKING:
    from microtome.comparison import Comparison

_EXAMPLES = """\
examples:
  microtome compare first second
      two folders of `microtome segment` or of downloaded jobs: matched, missing and extra cells, F1, SQ, PQ,
      and compare.png with the place where they agree least
  microtome compare qupath.geojson results/cells.parquet --picture difference.png --slide slide.svs
      anybody's outlines against ours, drawn on the slide
  microtome compare truth/labels.tif found/labels.tif --iou 0.7 --json
      two label images, pixel by pixel, with a stricter measure, for programs
"""


def add(commands: Commands) -> None:
    """Declare the command."""
    compare = declare(commands, "compare", "say and show how the cells of two runs over one slide differ", _EXAMPLES)
    what = "a folder with results, or a file: cells.parquet, GeoJSON, or a label image"
    compare.add_argument("a", type=Path, metavar="A", help=f"the measure: {what}")
    compare.add_argument("b", type=Path, metavar="B", help="what is compared with it")
    compare.add_argument(
        "--iou", type=_overlap, default=0.5, help="cells are one above this overlap, 0.5 to 1 (default: 0.5)"
    )
    compare.add_argument(
        "--picture", type=Path, default=Path("compare.png"), metavar="PNG", help="where to draw it (compare.png)"
    )
    compare.add_argument("--no-picture", action="store_true", help="draw nothing")
    compare.add_argument("--slide", type=Path, help="draw the enlarged part on this slide's pixels")
    compare.set_defaults(run_here=run)


def _overlap(text: str) -> float:
    value = float(text)
    if not 0.5 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is no overlap from 0.5 to below 1")
    return value


def run(options: argparse.Namespace) -> int:
    """Run the command that was typed."""
    # What it stands on takes a second to import, which no other command should wait for.
    from microtome.comparison import compare, read_run

    comparison = compare(read_run(options.a), read_run(options.b), options.iou)
    picture = None if options.no_picture else options.picture
    if picture is not None:
        _draw(comparison, options.slide, picture)
    if options.json:
        import json

        print(json.dumps(as_document(comparison, picture), ensure_ascii=False))
    else:
        _say(comparison, picture)
    return 0


def _draw(comparison: Comparison, slide: Path | None, picture: Path) -> None:
    """Draw it; a slide that OpenSlide does not open is converted first, as `microtome segment` does."""
    import tempfile

    from microtome.comparison.picture import draw, save_png
    from microtome.standalone.source import readable

    with tempfile.TemporaryDirectory(prefix="microtome-compare-") as folder:
        save_png(draw(comparison, None if slide is None else readable(slide, Path(folder))), picture)


def as_document(comparison: Comparison, picture: Path | None) -> dict[str, Any]:
    """Everything that a comparison says, for programs."""
    window = comparison.worst
    return {
        "a": _side(comparison.a.path, len(comparison.a.outlines), comparison.a.facts),
        "b": _side(comparison.b.path, len(comparison.b.outlines), comparison.b.facts),
        "iou": comparison.threshold,
        "matched": len(comparison.pairs),
        "missing": len(comparison.missing),
        "extra": len(comparison.extra),
        "aside": {"a": comparison.aside[0], "b": comparison.aside[1]},
        "f1": comparison.f1,
        "f1_50_90": comparison.f1_50_90,
        "sq": comparison.sq,
        "pq": comparison.pq,
        "worst": None
        if window is None
        else {
            "x": window.x,
            "y": window.y,
            "side": window.side,
            "f1": window.f1,
            "matched": window.matched,
            "missing": window.missing,
            "extra": window.extra,
        },
        "notes": list(comparison.notes),
        "picture": None if picture is None else str(picture),
    }


def _side(path: Path, cells: int, facts: dict[str, Any]) -> dict[str, Any]:
    said = {name: value for name, value in facts.items() if name in {"model", "engine", "content_key"}}
    return {"path": str(path), "cells": cells, **said}


def _say(comparison: Comparison, picture: Path | None) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, run in (("A", comparison.a), ("B", comparison.b)):
        by = f" ({run.facts['model']} on {run.facts.get('engine', '?')})" if "model" in run.facts else ""
        table.add_row(name, f"{run.path}: {len(run.outlines):,} cells{by}")
    table.add_row("Matched", f"[green]{len(comparison.pairs):,}[/green], with an overlap above {comparison.threshold}")
    table.add_row("Missing", f"[red]{len(comparison.missing):,}[/red] of A that are not in B")
    table.add_row("Extra", f"[blue]{len(comparison.extra):,}[/blue] of B that are not in A")
    if any(comparison.aside):
        table.add_row("Aside", f"{comparison.aside[0]:,} and {comparison.aside[1]:,} where the other did not look")
    table.add_row(
        "Scores",
        f"F1 {comparison.f1:.4f}, F1 from 0.5 to 0.9 {comparison.f1_50_90:.4f}, "
        f"SQ {comparison.sq:.4f}, PQ {comparison.pq:.4f}",
    )
    window = comparison.worst
    if window is not None:
        table.add_row(
            "Worst",
            f"F1 {window.f1:.3f} in the {window.side:.0f} px at ({window.x:.0f}, {window.y:.0f}): {window.matched} "
            f"matched, {window.missing} missing, {window.extra} extra",
        )
    for note in comparison.notes:
        table.add_row("Note", f"[yellow]{note}[/yellow]")
    if picture is not None:
        table.add_row("Picture", str(picture))
    Console(highlight=False).print(table)
