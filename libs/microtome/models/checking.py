"""`microtome model check`: whether a model is whole and works on this machine.

Promises: one finding for each thing that was looked at; what could not be looked at is said, with the reason, and is
not taken for good. Refuses: to say how well a model finds cells.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from microtome.errors import MicrotomeError
from microtome.models.catalogue import read_about
from microtome.models.context import felt_radius
from microtome.models.pictures import pictures
from microtome.models.refusals import ImportNeedsMore, ModelRefused
from microtome.models.structure import bare, read_structure
from microtome.segmentation.engine import OnnxRuntimeEngine
from microtome.segmentation.head import find_instances
from microtome.segmentation.model import Model, load_model

Outcome = Literal["ok", "failed", "not checked"]
# On a built-in picture a model that works finds some; one that was trained for something else may find few.
ENOUGH_CELLS = 10


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    outcome: Outcome
    detail: str


def check_model(name_or_path: str | Path) -> Iterator[Finding]:
    """Look at a model, finding by finding. Raises `UnknownModel` if there is none."""
    model = load_model(name_or_path)
    yield Finding("files", "ok", f"model.onnx is the file that model.json describes; digest {model.digest[:12]}")
    about = read_about(model.network.parent)
    if about:
        same = about.get("digest") == model.digest
        told = "about.json belongs to it" if same else "about.json belongs to another digest"
        yield Finding("about", "ok" if same else "failed", told)
    try:
        engine = OnnxRuntimeEngine(model)
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's own errors share no other base
        yield Finding("network", "failed", f"ONNX Runtime cannot load it: {type(error).__name__}: {error}")
        return
    try:
        yield _network(engine)
        yield _context(model, engine)
        yield _cells(model, engine)
        yield _parity(model)
    except MicrotomeError as error:
        yield Finding("network", "failed", error.detail)


def _network(engine: OnnxRuntimeEngine) -> Finding:
    rng = np.random.default_rng(0)
    extremes = np.array([0, 255], np.uint8)
    for edge in (64, 128):
        noise = rng.choice(extremes, (2, edge, edge, 3))
        logits = engine.infer(noise, np.zeros((2, 3), np.float32), np.full((2, 3), 1 / 64, np.float32))
        if logits.shape != (2, 5, edge, edge):
            return Finding("network", "failed", f"gives {logits.shape} for two pictures of {edge} pixels")
        if not np.isfinite(logits).all():
            return Finding("network", "failed", "gives numbers that are not finite")
    return Finding("network", "ok", "runs in any size and batch; all numbers finite, also on noise")


def _context(model: Model, engine: OnnxRuntimeEngine) -> Finding:
    try:
        felt = felt_radius(engine.infer, model.halo_min)
    except ModelRefused:
        return Finding("halo", "failed", f"a pixel is felt further away than halo_min, {model.halo_min}")
    return Finding("halo", "ok", f"a pixel is felt {felt} pixels away; halo_min is {model.halo_min}")


def _cells(model: Model, engine: OnnxRuntimeEngine) -> Finding:
    counts = []
    for picture in pictures(model):
        logits = engine.infer(picture.pixels, picture.low, picture.scale)
        counts.append(find_instances(logits[0], model).label.size)
    told = " and ".join(f"{count} cells on {kind}" for count, kind in zip(counts, ("bright", "dark"), strict=True))
    return Finding("cells", "ok" if max(counts) >= ENOUGH_CELLS else "failed", f"{told} field")


def _parity(model: Model) -> Finding:
    folder = model.network.parent
    weights_file, about = folder / "weights.safetensors", read_about(folder)
    if not weights_file.is_file():
        return Finding("parity", "not checked", "the weights that it was made from are not kept beside it")
    try:
        from microtome.models.pytorch import torch_module

        torch_module()
    except ImportNeedsMore:
        return Finding("parity", "not checked", "PyTorch is not installed (`make setup-models`)")
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    from microtome.models.parity import measure

    try:
        weights = bare(load_file(weights_file))
    except (SafetensorError, OSError, ValueError) as error:
        return Finding("parity", "failed", f"weights.safetensors is damaged: {error}")
    foreground, object_class = float(about.get("foreground_threshold", 0.5)), int(about.get("object_class", 0))
    parity = measure(model, read_structure(weights), weights, object_class, foreground, None)
    try:
        parity.require()
    except ModelRefused as refused:
        return Finding("parity", "failed", refused.detail)
    told = f"logits within {parity.logits:.2g} of {parity.compared_with}; {parity.pixels_different} pixels different"
    return Finding("parity", "ok", told)
