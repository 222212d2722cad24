"""`microtome segment`: an image's cells on this machine, without a server.

Promises: the same files as a job's; a run that was stopped goes on where it was when the same command is typed again.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from microtome.artifacts.formats import CELL_FORMATS, DEFAULT_FORMATS, formats_named
from microtome.commandline.declaring import Commands, declare, pixel_size, region

if TYPE_CHECKING:
    from rich.console import Console

    from microtome.artifacts.summary import Summary

_EXAMPLES = """\
examples:
  microtome segment slide.svs --out results
      find every cell; the files are those of a job on a server, and labels.tif if the image is small
  microtome segment scan.tif --out results --mpp 0.25 --region 0,0,20000,20000
      say how large a pixel is, look at a part only
  microtome segment slide.svs --out results --engine onnxruntime-cpu-fp32 --threads 4
      choose what runs the network, and on how many cores
Stop it whenever you like: the same command goes on where it was.
"""


def add(commands: Commands) -> None:
    """Declare the command."""
    segment = declare(commands, "segment", "find the cells of an image on this machine, without a server", _EXAMPLES)
    segment.add_argument("image", type=Path, metavar="IMAGE", help="a slide, or a TIFF, PNG or JPEG picture")
    segment.add_argument("--out", type=Path, required=True, metavar="DIR", help="an empty folder, or one to be made")
    segment.add_argument("--mpp", type=pixel_size, help="µm per pixel, if the file does not say or you know better")
    segment.add_argument(
        "--model", help="a model (`microtome model list`), or its folder (default: brightfield_nuclei if imported)"
    )
    segment.add_argument(
        "--engine", default="auto", help="what runs the network (default: auto, the fastest that fits)"
    )
    segment.add_argument("--region", type=region, metavar="X,Y,W,H", help="only this part, in pixels of the image")
    segment.add_argument(
        "--tissue", type=Path, metavar="GEOJSON", help="polygons of what counts as tissue, instead of what is found"
    )
    segment.add_argument("--tile-size", type=int, help="largest edge of a tile, model pixels (default: what fits best)")
    segment.add_argument("--stain", choices=("he", "hdab"), default="he", help="whose dyes are measured (default: he)")
    segment.add_argument(
        "--formats",
        default=DEFAULT_FORMATS,
        metavar="LIST",
        help=f"files of the cells, of {','.join(CELL_FORMATS)} (default: {DEFAULT_FORMATS})",
    )
    segment.add_argument("--threads", type=int, default=0, help="cores to use (default: all)")
    segment.set_defaults(run_here=run)


def run(options: argparse.Namespace) -> int:
    """Run the command that was typed."""
    # What it stands on takes a second to import, which no other command should wait for.
    from rich.console import Console

    from microtome.commandline.declaring import read_geojson
    from microtome.commandline.display import progress_bars
    from microtome.errors import InvalidRequest
    from microtome.heap import keep_freed_memory
    from microtome.segmentation.engines import open_engine
    from microtome.segmentation.model import preferred_model
    from microtome.segmentation.stains import stain_named
    from microtome.standalone.running import Wishes, segment_image
    from microtome.tissue.region import Region

    if options.threads < 0:
        raise InvalidRequest(f"--threads is {options.threads}; give a number of cores, or 0 for all.")
    keep_freed_memory()
    out = Console(highlight=False)
    wishes = Wishes(
        image=options.image,
        out=options.out,
        mpp=options.mpp,
        model=options.model or preferred_model(),
        region=None if options.region is None else Region(**options.region),
        tissue=None if options.tissue is None else read_geojson(options.tissue),
        tile_size=options.tile_size,
        stain=stain_named(options.stain),
        threads=options.threads,
        formats=formats_named(options.formats),
    )
    with progress_bars(Console(stderr=True, highlight=False)) as bars:
        task = bars.add_task("Cells", total=None, note="reads the image")

        def progress(tiles: int, of: int, cells: int) -> None:
            bars.update(task, completed=tiles, total=of, note=f"{tiles}/{of} tiles  {cells:,} cells")

        summary = segment_image(wishes, lambda model: open_engine(model, options.engine, options.threads), progress)
    if options.json:
        import json

        print(json.dumps(asdict(summary), ensure_ascii=False))
    else:
        _say(out, summary, options.out)
    return 0


def _say(console: Console, summary: Summary, out: Path) -> None:
    from rich.table import Table

    table = Table(show_header=False, box=None)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    density = "–" if summary.cells_per_mm2 is None else f"{summary.cells_per_mm2:,.0f} per mm²"
    area = "–" if summary.tissue_mm2 is None else f"{summary.tissue_mm2:.3f} mm²"
    table.add_row("Cells", f"[bold green]{summary.cells:,}[/bold green] ({density})")
    looked_at = summary.region or {"width": summary.width, "height": summary.height}
    table.add_row(
        "Tissue", f"{area}, {summary.tissue_fraction:.0%} of {looked_at['width']:,} x {looked_at['height']:,} px"
    )
    table.add_row(
        "Tiles",
        f"{summary.tiles_total:,} in the grid, {summary.tiles_skipped:,} without tissue, "
        f"{summary.tiles_cached:,} known from an earlier run",
    )
    if (seams := summary.seams) is not None and seams["density_ratio"] is not None:
        table.add_row(
            "Seams",
            f"density {seams['density_ratio']:.2f} ± {seams['density_error']:.2f} of what is beside them, "
            f"{seams['cut_cells']:,} cut ({seams['cut_expected']:.0f} by chance), {seams['duplicates']:,} found twice",
        )
    table.add_row("By", f"{summary.model} on {summary.engine or 'no engine'}")
    table.add_row("Time", ", ".join(f"{stage} {s:.2f} s" for stage, s in summary.stage_seconds.items()))
    for note in summary.notes:
        table.add_row("Note", f"[yellow]{note}[/yellow]")
    console.print(table)
    for path in sorted(out.iterdir()):
        console.print(f"  {path.name:<22} {path.stat().st_size:>11,} B", soft_wrap=True)
    sys.stdout.flush()
