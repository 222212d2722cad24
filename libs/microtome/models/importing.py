"""`microtome model import`: from a file to a model that every service can load by name.

Promises: a model is there whole or not at all; it was compared with its original before it was put there; importing the
same again gives the same digest. Refuses: names that are taken (unless told to replace), shipped ones always; models
that Microtome cannot run exactly, each with the reason.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from microtome.errors import Conflict
from microtome.models.context import felt_radius, halo_for, structural_radius
from microtome.models.description import ABOUT_FORMAT, Facts, describe
from microtome.models.graph import network_bytes
from microtome.models.model_card import model_card
from microtome.models.official import OFFICIAL, Official, fetch
from microtome.models.parity import Parity, measure
from microtome.models.pytorch import torch_module
from microtome.models.refusals import ImportNeedsMore, ModelRefused
from microtome.models.sources import Source, read_source, require_sha256
from microtome.models.structure import RGB, Structure, bare, read_structure
from microtome.segmentation.engine import OnnxRuntimeEngine
from microtome.segmentation.model import Model, load_model, models_folder, shipped_models

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_CLASS_NAMES = ("nuclei", "cells")
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the importer decides; `None`: what the source says. `sha256`: the file must have it, else it is not read."""

    name: str | None = None
    objects: str | None = None
    mpp: float | None = None
    licence: str | None = None
    replace: bool = False
    sha256: str | None = None


@dataclass(frozen=True, eq=False)
class Imported:
    """A model that was put into its place."""

    model: Model
    folder: Path
    parity: Parity
    about: dict[str, Any]


def import_model(what: str, wishes: Wishes, say: Say, into: Path | None = None) -> Imported:
    """Import an official model by name, or a file or folder. `into`: the folder of models (default: the user's).

    Raises `ModelRefused`, `ImportNeedsMore`, `Conflict`.
    """
    try:
        return _import(what, wishes, say, models_folder() if into is None else into)
    except OSError as error:
        raise ImportNeedsMore(f"The import could not read or write a file: {error}.") from error


def _import(what: str, wishes: Wishes, say: Say, parent: Path) -> Imported:
    official = None if Path(what).exists() else OFFICIAL.get(what)
    if official is None and wishes.sha256 is not None:
        require_sha256(Path(what), wishes.sha256)
    # One thread: two of torch's wait for each other in a busy loop where others need the cores, too.
    torch_module().set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="microtome-import-") as scratch:
        source, origin = _obtained(what, official, wishes.sha256, Path(scratch), say)
        facts = _decided(source, wishes, what)
        _require_free(facts.name, parent, wishes)
        weights = bare(source.state)
        structure = read_structure(weights)
        object_class = _object_class(structure, facts, wishes)
        _require_rgb(structure)
        widths = ", ".join(map(str, structure.layers))
        say(f"a U-Net of [{widths}], {structure.parameters:,} parameters, {facts.mpp} µm per pixel")
        network = network_bytes(structure, weights, object_class, facts.foreground_threshold)
        bound = structural_radius(structure)
        description = describe(facts, structure, weights, hashlib.sha256(network).hexdigest(), halo_for(bound))
        parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=".importing-", dir=parent))
        try:
            (made / "model.onnx").write_bytes(network)
            (made / "model.json").write_text(json.dumps(description, indent=1) + "\n", "utf-8")
            model = load_model(made)
            felt = felt_radius(OnnxRuntimeEngine(model).infer, bound)
            say(f"a pixel is felt {felt} pixels away, by structure at most {bound}: halo of at least {model.halo_min}")
            parity = measure(model, structure, weights, object_class, facts.foreground_threshold, source.own_network)
            parity.require()
            say(_parity_sentence(parity))
            about = _about(model, facts, structure, object_class, source, origin, wishes, (felt, bound), parity)
            _write_rest(made, about, weights, model)
            folder = _put(made, parent / facts.name)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
    return Imported(load_model(folder), folder, parity, about)


def _obtained(
    what: str, official: Official | None, sha256: str | None, scratch: Path, say: Say
) -> tuple[Source, dict[str, Any]]:
    """Read the source; fetch it first if it is the name of an official model."""
    if official is None:
        path = Path(what)
        return read_source(path), {"file": path.resolve().name}
    say(f"fetching {official.url}")
    path, digest = fetch(official.url, official.name, scratch, sha256=sha256 or official.sha256)
    say(f"{path.stat().st_size:,} bytes, sha256 {digest}")
    source = read_source(path)
    facts = replace(
        source.facts,
        name=official.name,
        licence=source.facts.licence or official.licence,
        version=source.facts.version or official.version,
    )
    return replace(source, facts=facts), {"url": official.url}


def _decided(source: Source, wishes: Wishes, what: str) -> Facts:
    facts = source.facts
    if wishes.objects is not None and len(facts.objects) == 2:
        facts = replace(facts, name=f"{facts.name}-{wishes.objects}")
    facts = replace(
        facts,
        name=wishes.name or facts.name,
        mpp=wishes.mpp or facts.mpp,
        licence=wishes.licence or facts.licence,
    )
    if not _NAME.fullmatch(facts.name):
        raise ImportNeedsMore(
            f"'{facts.name}' (from {what}) cannot be a model's name. Give --name: letters, digits, . _ -"
        )
    return facts.checked()


def _require_free(name: str, parent: Path, wishes: Wishes) -> None:
    if name in shipped_models():
        raise Conflict(f"'{name}' is a model that comes with Microtome. Give another --name.")
    if (parent / name).exists() and not wishes.replace:
        raise Conflict(f"There is a model '{name}' in {parent} already. Give another --name, or --replace.")


def _object_class(structure: Structure, facts: Facts, wishes: Wishes) -> int:
    """Which class of objects to run; Microtome's head runs one at a time."""
    names = (
        facts.objects if len(facts.objects) == structure.object_classes else _CLASS_NAMES[: structure.object_classes]
    )
    if structure.object_classes == 1:
        if wishes.objects not in {None, *names}:
            raise ModelRefused(f"This model finds {names[0]}, not {wishes.objects}.")
        return 0
    if wishes.objects is None:
        raise ImportNeedsMore(
            f"This model finds {names[0]} and {names[1]}; Microtome runs one class of objects at a time. Choose "
            f"--objects {names[0]} or --objects {names[1]} (import it twice to have both); which nucleus belongs to "
            "which cell is not worked out."
        )
    if wishes.objects not in names:
        raise ModelRefused(f"This model finds {names[0]} and {names[1]}, not {wishes.objects}.")
    return names.index(wishes.objects)


def _require_rgb(structure: Structure) -> None:
    if structure.adaptor is None and structure.in_channels != RGB:
        raise ModelRefused(
            f"This model takes {structure.in_channels} channels; slides have {RGB}: red, green and blue."
        )
    if structure.adaptor is not None and structure.adaptor.out_channels != structure.in_channels:
        raise ModelRefused("This model's adaptor does not give as many channels as its network takes.")


def _parity_sentence(parity: Parity) -> str:
    head = ""
    if parity.own_head_cells is not None:
        differing = parity.own_head_pixels_different
        head = f"; its own head finds {parity.own_head_cells} cells, ours differs in {differing} pixels"
    return (
        f"logits differ by at most {parity.logits:.2g} from {parity.compared_with}; {parity.cells} cells on the "
        f"built-in pictures, {parity.pixels_different} of {parity.pixels_in_cells} pixels different{head}"
    )


def _about(
    model: Model,
    facts: Facts,
    structure: Structure,
    object_class: int,
    source: Source,
    origin: dict[str, Any],
    wishes: Wishes,
    radius: tuple[int, int],
    parity: Parity,
) -> dict[str, Any]:
    import onnx
    import onnxruntime

    names = facts.objects if len(facts.objects) == structure.object_classes else _CLASS_NAMES
    return {
        "format": ABOUT_FORMAT,
        "digest": model.digest,
        "objects": wishes.objects or names[object_class],
        "object_class": object_class,
        "licence": facts.licence,
        "version": facts.version,
        "channels": "any; red, green and blue are used" if structure.adaptor is not None else "red, green, blue",
        "source": {"kind": source.kind, "sha256": source.sha256, **origin},
        "receptive_radius": {"felt": radius[0], "bound": radius[1]},
        "foreground_threshold": facts.foreground_threshold,
        "parity": parity.as_json(),
        "notes": list(source.notes),
        "imported_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "made_with": {
            "torch": str(torch_module().__version__),
            "onnx": str(onnx.__version__),
            "onnxruntime": str(onnxruntime.__version__),
        },
    }


def _write_rest(made: Path, about: dict[str, Any], weights: Any, model: Model) -> None:  # noqa: ANN401
    from safetensors.numpy import save_file

    save_file(dict(weights), made / "weights.safetensors")
    (made / "about.json").write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", "utf-8")
    (made / "MODEL_CARD.md").write_text(model_card(model, about), "utf-8")
    # What is made as temporary is for its owner only; services may run as somebody else.
    made.chmod(0o755)
    for file in made.iterdir():
        file.chmod(0o644)


def _put(made: Path, folder: Path) -> Path:
    """Move the finished folder to its name; what it replaces goes away only then."""
    if folder.exists():
        old = Path(tempfile.mkdtemp(prefix=".replaced-", dir=folder.parent))
        os.replace(folder, old / "model")  # noqa: PTH105 - one step, or none
        os.replace(made, folder)  # noqa: PTH105
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.replace(made, folder)  # noqa: PTH105
    return folder
