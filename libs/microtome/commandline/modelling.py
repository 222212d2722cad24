"""`microtome model`: bring a model in, list what is there, try one.

Promises: exit status 1 if a check failed; with --json one document on stdout.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from microtome.commandline.declaring import Commands, declare, pixel_size, sha256

if TYPE_CHECKING:
    from rich.console import Console

    from microtome.models.catalogue import Entry

_EXAMPLES = """\
examples:
  microtome model import brightfield_nuclei
      fetch an official InstanSeg model, check it, install it
  microtome model import brightfield_nuclei.zip
      the same from a file that was fetched elsewhere
  microtome model import brightfield_nuclei.zip --sha256 HEX
      only if it is the file whose sha256 its authors gave you
  microtome model import training/run7 --name ours --mpp 0.5
      a training's folder (model_weights.pth and experiment_log.csv, or .safetensors and model.json)
  microtome model list
  microtome model check brightfield_nuclei
Import only files from people you trust: TorchScript is a program (docs/models.md).
"""
_MARKS = {"ok": "[green]ok[/]", "failed": "[red]failed[/]", "not checked": "[yellow]not checked[/]"}
_WIDE = 200


def add(commands: Commands) -> None:
    """Declare the command."""
    model = declare(commands, "model", "import, list and check models", _EXAMPLES)
    acts = model.add_subparsers(dest="act", required=True, metavar="ACT")
    bring = declare(acts, "import", "bring in an InstanSeg model, compare it with the original, install it", _EXAMPLES)
    bring.add_argument("source", metavar="SOURCE", help="an official name, a zip, a TorchScript file, a checkpoint")
    bring.add_argument("--name", help="under which to install it (default: the model's own)")
    bring.add_argument("--objects", choices=("nuclei", "cells"), help="which, of a model that finds both")
    bring.add_argument("--mpp", type=pixel_size, help="µm per pixel, if the file does not say or you know better")
    bring.add_argument("--licence", help="of the model, if the file does not say")
    bring.add_argument("--sha256", metavar="HEX", type=sha256, help="of the file; another one is refused unread")
    bring.add_argument("--replace", action="store_true", help="replace a model of the same name")
    declare(acts, "list", "list shipped and imported models")
    check = declare(acts, "check", "try a model: its files, its network, its halo, cells on a built-in picture")
    check.add_argument("name", metavar="NAME", help="a model, as `microtome model list` prints it, or its folder")
    model.set_defaults(run_here=run)


def run(options: argparse.Namespace) -> int:
    """Run the command that was typed."""
    from rich.console import Console

    out = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE)
    match options.act:
        case "import":
            return _import(out, options)
        case "list":
            return _list(out, as_json=options.json)
        case _:
            return _check(out, options.name, as_json=options.json)


def _import(out: Console, options: argparse.Namespace) -> int:
    from rich.console import Console

    from microtome.models.importing import Wishes, import_model
    from microtome.settings import EngineDefaults

    aside = Console(stderr=True, highlight=False)
    wishes = Wishes(options.name, options.objects, options.mpp, options.licence, options.replace, options.sha256)
    imported = import_model(options.source, wishes, lambda line: aside.print(line, markup=False, soft_wrap=True))
    model = imported.model
    if options.json:
        document = {"name": model.name, "folder": str(imported.folder), **imported.about}
        out.print(json.dumps(document, ensure_ascii=False), markup=False, soft_wrap=True)
        return 0
    for note in imported.about["notes"]:
        aside.print(f"note: {note}", markup=False, soft_wrap=True)
    if imported.about["licence"] is None:
        aside.print("note: the file says no licence; ask before you use it (--licence records it)", markup=False)
    out.print(f"Installed as '{model.name}' in {imported.folder}", markup=False, soft_wrap=True)
    out.print(f"  microtome segment slide.svs --out results --model {model.name}", markup=False, soft_wrap=True)
    usual: int = EngineDefaults.model_fields["tile_overlap"].default
    room = f" TILE_OVERLAP={model.halo}" if model.halo_min > usual else ""
    out.print(f"  INSTANSEG_MODEL={model.name}{room} make up", markup=False, soft_wrap=True)
    return 0


def _list(out: Console, *, as_json: bool) -> int:
    from rich.table import Table

    from microtome.models.catalogue import entries
    from microtome.segmentation.model import models_folder

    found = entries()
    if as_json:
        out.print(json.dumps([entry.as_json() for entry in found], ensure_ascii=False), markup=False, soft_wrap=True)
        return 0
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("NAME", "FROM", "DIGEST", "FINDS", "µm/px", "HALO", "LAYERS", "PARAMETERS", "MB", "LICENCE"):
        table.add_column(title, no_wrap=True)
    for entry in found:
        table.add_row(*_row(entry))
    out.print(table)
    for entry in found:
        if entry.problem:
            out.print(f"{entry.name}: {entry.problem}", markup=False, soft_wrap=True)
    out.print(f"Imported models are kept in {models_folder()}", markup=False, soft_wrap=True)
    return 0


def _row(entry: Entry) -> tuple[str, ...]:
    said = entry.as_json()
    if entry.model is None:
        return (entry.name, entry.origin, "cannot be loaded", *[""] * 7)
    layers = "-".join(map(str, said["layers"])) if said["layers"] else "?"
    parameters = f"{said['parameters']:,}" if said["parameters"] else "?"
    return (
        entry.name,
        entry.origin,
        entry.model.digest[:12],
        said["objects"],
        f"{entry.model.mpp:g}",
        str(entry.model.halo_min),
        layers,
        parameters,
        f"{said['bytes'] / 1e6:.1f}",
        said["licence"] or ("see MODEL_CARD.md" if entry.origin == "shipped" else "unknown"),
    )


def _check(out: Console, name: str, *, as_json: bool) -> int:
    from rich.markup import escape

    from microtome.models.checking import check_model

    findings = []
    for finding in check_model(name):
        findings.append(finding)
        if not as_json:
            out.print(f"{_MARKS[finding.outcome]:<12}  {finding.what:<8} {escape(finding.detail)}", soft_wrap=True)
    if as_json:
        out.print(
            json.dumps([asdict(finding) for finding in findings], ensure_ascii=False), markup=False, soft_wrap=True
        )
    return 1 if any(finding.outcome == "failed" for finding in findings) else 0
