"""What can be typed: commands, options, and the help that explains them.

Promises: the help has examples that work.
Refuses: values that no server could take, before asking one.
"""

from __future__ import annotations

import argparse
import getpass
import os
import re
from collections.abc import Mapping
from pathlib import Path

from microtome.client import FINISHED
from microtome.commandline import comparing, exporting, modelling, segmenting
from microtome.commandline.declaring import Commands, declare, pixel_size, region

# Commands that need no server: each has `add(commands)`, which sets `run_here`, and imports what it needs to run later.
LOCAL = (segmenting, comparing, exporting, modelling)
DEFAULT_URL = "http://127.0.0.1:8080"
JOB_TYPES = ("TISSUE_MASK", "SEGMENT_CELLS", "INSTANSEG_WSI")
STAINS = ("he", "hdab")
POLICIES = ("halt", "skip", "continue")
_USER = re.compile(r"[A-Za-z0-9_-]{1,64}")

_SUBMIT_EXAMPLES = """\
examples:
  microtome submit slide.svs --watch
      upload, find every cell, show the progress until it is done
  microtome submit a.svs b.svs --type TISSUE_MASK --type SEGMENT_CELLS --name "two slides"
      one branch per slide; in each the tissue first, then the cells
  microtome submit scan.tif --mpp 0.25 --region 0,0,20000,20000 --download results
      say how large a pixel is, look at a part only, fetch the files when done
  microtome submit slide:7b0c… --policy continue
      a slide that is on the server already; go on in its branch if a job fails
  microtome submit slide:7b0c… --tissue edited.geojson --watch
      only the cells inside of polygons that you drew, in QuPath for example
  microtome submit --file workflow.json
      a whole graph of jobs, as the API takes it (POST /api/v1/workflows)
"""
_RETRY = (
    "try a failed, cancelled or skipped job again, or all failed jobs of a workflow; what was skipped because of them "
    "comes back too"
)


def user_name(environment: Mapping[str, str]) -> str | None:
    """Return who asks when nobody was named: MICROTOME_USER, else the login name if it can be one."""
    if environment.get("MICROTOME_USER"):
        return environment["MICROTOME_USER"]
    try:
        login = getpass.getuser()
    except (OSError, KeyError):
        return None
    return login if _USER.fullmatch(login) else None


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    top = argparse.ArgumentParser(
        prog="microtome",
        description="Turn whole-slide images into every cell on them, on a Microtome server, or without one.",
        epilog="Start a server on this machine with `make up`. `microtome COMMAND --help` has examples.",
    )
    top.add_argument(
        "--url",
        default=os.environ.get("MICROTOME_URL", DEFAULT_URL),
        help=f"the server (MICROTOME_URL; default {DEFAULT_URL})",
    )
    top.add_argument(
        "--user", default=user_name(os.environ), help="who you are (MICROTOME_USER; default: your login name)"
    )
    top.add_argument("--json", action="store_true", help="print what the server said, for programs")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _submit(commands)
    _lists(commands)
    _acts(commands)
    _files(commands)
    for local in LOCAL:
        local.add(commands)
    return top


def _submit(commands: Commands) -> None:
    submit = declare(commands, "submit", "upload slides and have them worked on", _SUBMIT_EXAMPLES)
    submit.add_argument("slides", nargs="*", metavar="SLIDE", help="a file, or slide:<id> of one on the server")
    submit.add_argument("--file", type=Path, help="a JSON document with a whole workflow, instead of slides")
    submit.add_argument(
        "--type",
        action="append",
        choices=JOB_TYPES,
        dest="types",
        help="what to do with each slide; repeat it for several in a row (default: TISSUE_MASK, then SEGMENT_CELLS)",
    )
    submit.add_argument("--name", help="the workflow's name (default: the first slide's)")
    size = submit.add_mutually_exclusive_group()
    size.add_argument("--mpp", type=pixel_size, help="µm per pixel, if you know it")
    size.add_argument("--assume-mpp", type=pixel_size, help="µm per pixel, if you assume it and the file does not say")
    submit.add_argument("--model", help="name of the model")
    submit.add_argument("--tile-size", type=int, help="edge of a tile with its halo, model pixels")
    submit.add_argument("--halo", type=int, help="context on each side of a tile, model pixels")
    submit.add_argument("--batch-size", type=int, help="tiles that the network takes at once")
    submit.add_argument("--stain", choices=STAINS, help="he (hematoxylin and eosin, the default) or hdab")
    submit.add_argument("--region", type=region, metavar="X,Y,W,H", help="only this part, in pixels of the slide")
    submit.add_argument(
        "--tissue",
        type=Path,
        metavar="GEOJSON",
        help="what counts as tissue, instead of what is found: polygons in pixels of the slide, such as an edited "
        "tissue.geojson of a job",
    )
    submit.add_argument("--policy", choices=POLICIES, help="what the failure of a job means for those after it")
    submit.add_argument("--draft", action="store_true", help="only record it; `microtome start` starts it")
    submit.add_argument("--watch", action="store_true", help="show the progress until it is done")
    submit.add_argument("--download", type=Path, metavar="DIR", help="fetch all files when it is done; implies --watch")


def _lists(commands: Commands) -> None:
    listing = declare(
        commands,
        "list",
        "list your workflows, jobs or slides with their ids, newest first",
        "examples:\n  microtome list\n  microtome list jobs --status FAILED\n  microtome list slides --limit 5\n",
    )
    listing.add_argument(
        "what",
        nargs="?",
        choices=("workflows", "jobs", "slides"),
        default="workflows",
        help="whose ids and standing to list (default: workflows); `show` takes each of these ids",
    )
    listing.add_argument("--status", help=f"only those in a status, such as {', '.join(sorted(FINISHED))}")
    listing.add_argument("--limit", type=int, default=20, help="how many at most (default 20)")
    show = declare(
        commands,
        "show",
        "show a workflow with its jobs, a job with its files, or a slide",
        "examples:\n  microtome show 3f0e…\n  microtome show 3f0e… --at 2026-11-22T10:00:00Z\n",
    )
    show.add_argument(
        "id", metavar="ID", help="the whole id of a workflow, a job or a slide, as `microtome list` prints it"
    )
    show.add_argument("--at", help="a workflow as it was at a log position or a time (2026-11-22T10:00:00Z)")
    watch = declare(commands, "watch", "follow a workflow until it is done")
    watch.add_argument("id", metavar="WORKFLOW", help="its id, as `submit` and `list` print it")
    logs = declare(commands, "logs", "what the workers wrote about a job")
    logs.add_argument("id", metavar="JOB", help="its id, as `list jobs` and `show` of its workflow print it")
    logs.add_argument("--attempt", type=int, help="of this attempt only")
    declare(commands, "status", "how the server is doing, who is active, and your own usage")


def _acts(commands: Commands) -> None:
    for name, what in (
        ("start", "start a draft: a job, or all drafts of a workflow"),
        ("cancel", "cancel a job, or everything in a workflow that has not ended"),
        ("retry", _RETRY),
    ):
        act = declare(commands, name, what, f"example:\n  microtome {name} 3f0e…\n")
        act.add_argument("id", metavar="ID", help="the whole id of a job or a workflow, as `microtome list` prints it")
    delete = declare(commands, "delete", "delete a slide, or the files of a job; what was found stays known")
    delete.add_argument("what", choices=("slide", "artifacts"))
    delete.add_argument("id", metavar="ID", help="of the slide, or of the job")


def _files(commands: Commands) -> None:
    download = declare(
        commands,
        "download",
        "fetch the files of a job, or of all jobs of a workflow",
        "examples:\n  microtome download 3f0e… --out results\n  microtome download 3f0e… --only cells.geojson\n"
        "  microtome download 3f0e… --zip --out results\n",
    )
    download.add_argument("id", metavar="ID", help="the id of a job or a workflow")
    download.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="where to (default: here)")
    download.add_argument("--only", action="append", metavar="NAME", help="only files of this name; repeatable")
    download.add_argument("--zip", action="store_true", help="one archive per job, with a mask of each tile")
