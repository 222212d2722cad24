"""What can be imported, whatever file it comes in.

Promises: a file is known by what is in it, not by its name; nothing that is read here is run, except TorchScript (see
`torchscript`). Refuses: what is no model, and folders in which it is not clear which file is meant.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from microtome.models.archive import opened
from microtome.models.description import Facts
from microtome.models.graph import CLAMP
from microtome.models.official import mismatch
from microtome.models.refusals import ModelRefused
from microtome.segmentation.head import Coordinates


class OwnNetwork(Protocol):
    """The network as its source runs it, to be compared with what was made of it."""

    def logits(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Give all channels [b, k, h, w] of normalised images [b, channels, h, w]."""

    def labels(self, image: NDArray[np.float32], object_class: int) -> NDArray[np.int32]:
        """Give the objects [h, w] that the source's own head finds on one normalised image [channels, h, w]."""

    def coordinates(self, height: int, width: int) -> Coordinates:
        """Give the coordinates that the source's own head uses for an image of this size."""


@dataclass(frozen=True, eq=False)
class Source:
    """A model as it was found: tensors by name, what is said of them, and where they were."""

    state: Mapping[str, NDArray[np.generic]]
    facts: Facts
    kind: str
    sha256: str
    own_network: OwnNetwork | None = None
    notes: tuple[str, ...] = field(default=())


def read_source(path: Path) -> Source:
    """Read a bioimage.io zip, a TorchScript file, safetensors or a checkpoint, or a folder with one of them.

    Raises `ModelRefused` for anything else, `ImportNeedsMore` where PyTorch is needed and missing.
    """
    if path.is_dir():
        return _from_folder(path)
    if not path.is_file():
        raise ModelRefused(f"There is no file '{path}', and no official model of that name.")
    if path.name.endswith(".safetensors"):
        return _from_safetensors(path, path.with_name("model.json"))
    if zipfile.is_zipfile(path):
        return _from_zip(path)
    return _from_pickle(path, path.with_name("experiment_log.csv"))


def require_sha256(path: Path, expected: str) -> None:
    """Hold a file against its digest before it is read. Raises `ModelRefused` for another, or for a folder."""
    if not path.is_file():
        raise ModelRefused(f"'{path}' is not a file; a sha256 is that of one file.")
    digest = sha256_of(path)
    if digest != expected:
        raise ModelRefused(mismatch(str(path), digest, expected))


def sha256_of(path: Path) -> str:
    """Digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _from_folder(folder: Path) -> Source:
    script, weights = folder / "instanseg.pt", folder / "model_weights.pth"
    if script.is_file():
        return _from_torchscript(script, folder / "rdf.yaml", folder.absolute().name)
    if weights.is_file():
        return _from_pickle(weights, folder / "experiment_log.csv")
    tensors = sorted(folder.glob("*.safetensors"))
    if len(tensors) == 1:
        return _from_safetensors(tensors[0], folder / "model.json")
    raise ModelRefused(
        f"The folder '{folder}' has no instanseg.pt, no model_weights.pth and not exactly one .safetensors file."
    )


def _from_zip(path: Path) -> Source:
    with opened(path) as archive:
        names = archive.names
        # What torch writes are zips, too: with code if it is TorchScript, without if it is a checkpoint.
        if any(name.endswith("/data.pkl") for name in names):
            if any("/code/" in name for name in names):
                name = path.absolute().parent.name if path.name == "instanseg.pt" else path.stem
                return _from_torchscript(path, path.with_name("rdf.yaml"), name)
            return _from_pickle(path, path.with_name("experiment_log.csv"))
        scripts = [name for name in names if name.endswith(".pt")]
        if len(scripts) != 1:
            found = ", ".join(names[:5]) or "nothing"
            raise ModelRefused(f"'{path}' is no InstanSeg model: it has {len(scripts)} .pt files, and holds {found}.")
        inner = archive.extracted(scripts[0])
        description = next((name for name in names if name.endswith("rdf.yaml")), None)
        rdf = archive.extracted(description) if description else inner.with_name("no-rdf.yaml")
        source = _from_torchscript(inner, rdf, path.stem)
    return Source(source.state, source.facts, "official zip", sha256_of(path), source.own_network, source.notes)


def _from_torchscript(path: Path, rdf: Path, name: str) -> Source:
    from microtome.models.rdf import read_rdf
    from microtome.models.torchscript import read_torchscript

    said = read_rdf(rdf) if rdf.is_file() else {}
    state, facts, own, notes = read_torchscript(path, name, said)
    return Source(state, facts, "TorchScript", sha256_of(path), own, notes)


def _from_pickle(path: Path, log: Path) -> Source:
    from microtome.models.checkpoint import read_checkpoint

    name = path.absolute().parent.name if path.name == "model_weights.pth" else path.stem
    state, facts, notes = read_checkpoint(path, log, name)
    return Source(state, facts, "checkpoint", sha256_of(path), None, notes)


def _from_safetensors(path: Path, description: Path) -> Source:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        state = load_file(path)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ModelRefused(f"'{path}' is damaged: {error}") from error
    if not description.is_file():
        raise ModelRefused(f"Beside '{path.name}' there must be a model.json with its pixel size and thresholds.")
    try:
        said = json.loads(description.read_text("utf-8"))
        facts = _recipe_facts(said)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelRefused(f"'{description}' does not describe a model: {error!r}") from error
    digest, recorded = sha256_of(path), said.get("sha256", {}).get(path.name)
    if recorded not in {None, digest}:
        raise ModelRefused(f"'{path.name}' is not the file that its model.json describes (sha256 {digest}).")
    return Source(state, facts, "safetensors", digest)


def _recipe_facts(said: Mapping[str, Any]) -> Facts:
    """Read what this project's own training writes beside its weights."""
    normalisation = said.get("normalisation", {})
    low, high = normalisation.get("per_channel_percentiles", (0.1, 99.9))
    if tuple(normalisation.get("clamp", CLAMP)) != CLAMP:
        raise ModelRefused(f"Normalised pixels are clamped to {CLAMP} everywhere; this model was trained otherwise.")
    return Facts(
        name=str(said["name"]),
        mpp=float(said["pixel_size_um"]),
        licence=str(said["licence"]) if said.get("licence") else None,
        version=str(said["version"]) if said.get("version") else None,
        percentiles=(float(low), float(high)),
        coordinate_step=float(said["coordinate_step"]),
        window=int(said["window_size"]),
        peak_distance=int(said["peak_distance"]),
        seed_threshold=float(said["seed_threshold"]),
        mask_threshold=float(said["mask_threshold"]),
        overlap_threshold=float(said["overlap_threshold"]),
        foreground_threshold=float(said.get("foreground_threshold", 0.5)),
        min_size=int(said["min_size_px"]),
        objects=tuple(said.get("objects", ("nuclei",))),
    )
