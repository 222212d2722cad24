"""`microtome export`: a job's cells in further formats, on this machine.

Promises: reads the folder that `microtome segment` or `microtome download` left; needs no server and no slide.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from microtome.commandline.declaring import Commands, declare

# Named here too, so that the help needs none of the libraries.
FORMATS = ("fgb", "masks", "ome-zarr", "anndata", "spatialdata")
_EXAMPLES = """\
examples:
  microtome export results --format fgb
      FlatGeobuf, of which a viewer fetches a window alone
  microtome export results --format masks
      label images of the tiles in one ZIP, with a manifest of where they lie
  microtome export results --format ome-zarr --out cells.ome.zarr
      one label image of the whole slide with its pyramid, for napari
  microtome export results --format anndata --format spatialdata
      tables for scanpy, and everything for squidpy and napari-spatialdata
All but fgb and masks need more libraries: `make setup-dev` in a checkout, else the extra microtome[spatial].
"""


def add(commands: Commands) -> None:
    """Declare the command."""
    export = declare(commands, "export", "write a job's cells in further formats, without a server", _EXAMPLES)
    export.add_argument("folder", type=Path, metavar="DIR", help="the folder with summary.json and cells.parquet")
    export.add_argument(
        "--format", action="append", choices=FORMATS, dest="formats", required=True, help="repeat it for several"
    )
    export.add_argument("--out", type=Path, metavar="PATH", help="where to (default: in DIR, under the usual name)")
    export.set_defaults(run_here=run)


def run(options: argparse.Namespace) -> int:
    """Run the command that was typed."""
    # What it stands on takes a second to import, which no other command should wait for.
    from microtome.artifacts.exports import export
    from microtome.errors import InvalidRequest

    if options.out is not None and len(options.formats) > 1:
        raise InvalidRequest("With --out, give one --format at a time.")
    written = [export(options.folder, name, options.out) for name in options.formats]
    if options.json:
        print(json.dumps([str(path) for path in written], ensure_ascii=False))
    else:
        for path in written:
            print(path)
    return 0
