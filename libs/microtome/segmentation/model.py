"""What a segmentation model is: a network and the numbers its head needs.

Promises: a loaded `Model` is whole: `model.onnx` is the file that `model.json` was written for (checked by
digest), all numbers are in range, and `digest` changes whenever anything that can change a cell changes.
A name means a shipped model, or one that was imported into the user's model folder (`microtome model import`).
Refuses: files that do not belong together, and names it does not know. It does not run anything.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microtome.errors import ConfigurationError, ModelMismatch, UnknownModel

EMBEDDED = "embedded"
# The official model; where it was imported it is what those get who do not choose.
OFFICIAL = "brightfield_nuclei"
_SHIPPED = Path(__file__).parent / "models"
_FORMAT = 1


@dataclass(frozen=True, eq=False)
class PixelClassifier:
    """Tells whether a pixel belongs to a seed: 4 → hidden → hidden → 1 with ReLU; inputs dx, dy and two sigmas.

    `flat` float32 [hidden² + 7·hidden + 1]: first weights [hidden, 4], biases, second weights [hidden, hidden], biases,
    last weights [hidden], bias.
    """

    hidden: int
    flat: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Model:
    """A model, ready to be given to an engine and to the head."""

    name: str
    digest: str
    network: Path
    mpp: float
    halo_min: int
    # Percentiles of the slide's intensities that become 0 and 1.
    percentiles: tuple[float, float]
    # Embedding units per model pixel.
    coordinate_step: float
    # Half the edge of the square in which a seed may grow, in model pixels.
    window: int
    peak_distance: int
    seed_threshold: float
    mask_threshold: float
    overlap_threshold: float
    min_size: int
    pixel_classifier: PixelClassifier
    # Half the edge of the largest square in which a seed that does not fit may grow again; None: `window`.
    largest_window: int | None = None

    @property
    def window_max(self) -> int:
        """Half the edge of the largest square in which a seed may grow, in model pixels."""
        return max(self.window, self.largest_window or 0)

    @property
    def halo(self) -> int:
        """The halo to take: with room for objects half as large again as the ordinary window."""
        return -(-(self.halo_min + self.window // 2) // 16) * 16

    def with_room(self, halo: int) -> Model:
        """Return the model for tiles with `halo`: what the halo has more than is needed is room for larger objects.

        Never more than four times the ordinary window: what is larger is no nucleus.
        """
        return replace(self, largest_window=min(4 * self.window, self.window + max(0, halo - self.halo_min)))

    def require_halo(self, halo: int) -> None:
        """Raise `ConfigurationError` for a halo, in model pixels, with which tiles would not join exactly."""
        if halo < self.halo_min:
            raise ConfigurationError(
                f"Model '{self.name}' needs a halo (TILE_OVERLAP) of at least {self.halo_min} pixels, not {halo}; with "
                "less, cells at seams would come out differently."
            )


def models_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where imported models lie: MICROTOME_MODELS, else `microtome/models` in the user's data folder."""
    if environment.get("MICROTOME_MODELS"):
        return Path(environment["MICROTOME_MODELS"]).expanduser()
    data = Path(environment["XDG_DATA_HOME"]) if environment.get("XDG_DATA_HOME") else Path("~/.local/share")
    try:
        return data.expanduser() / "microtome" / "models"
    except RuntimeError:  # A container's user need not have a home.
        return Path("/nonexistent/microtome/models")


def shipped_models() -> dict[str, Path]:
    """Folders of the models that come with this version, by name."""
    return _folders(_SHIPPED)


def installed_models(folder: Path | None = None) -> dict[str, Path]:
    """Folders of the models that were imported into `folder` (default: `models_folder()`), by name."""
    return _folders(models_folder() if folder is None else folder)


def preferred_model() -> str:
    """Name of the model for those who do not choose: the official one where it was imported, else the shipped one."""
    return OFFICIAL if OFFICIAL in installed_models() else EMBEDDED


def load_model(name_or_path: str | Path) -> Model:
    """Load a shipped or an imported model by name, or a folder with `model.onnx` and `model.json`.

    Raises `UnknownModel` if there is none and `ModelMismatch` if its files do not fit each other.
    """
    folder = _find(name_or_path)
    network, description = folder / "model.onnx", folder / "model.json"
    try:
        facts = json.loads(description.read_text("utf-8"))
    except ValueError as error:
        raise ModelMismatch(f"{description} is not JSON: {error}") from error
    network_sha256 = hashlib.sha256(network.read_bytes()).hexdigest()
    try:
        return _from_facts(facts, network, network_sha256)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ModelMismatch(f"{description} is not complete: {error!r}") from error


def _find(name_or_path: str | Path) -> Path:
    known = installed_models() | shipped_models()
    # A name is a name: a folder that happens to lie here under it is not what was meant.
    folder = known.get(str(name_or_path), Path(name_or_path))
    if not (folder / "model.onnx").is_file() or not (folder / "model.json").is_file():
        imported = ", ".join(sorted(known.keys() - shipped_models().keys())) or "none"
        raise UnknownModel(
            f"There is no model '{name_or_path}'. Shipped: {', '.join(sorted(shipped_models()))}; imported into "
            f"{models_folder()}: {imported}. `microtome model import` brings one in; a folder with model.onnx and "
            "model.json will do too."
        )
    return folder


def _folders(parent: Path) -> dict[str, Path]:
    if not parent.is_dir():
        return {}
    return {path.name: path for path in sorted(parent.iterdir()) if path.is_dir() and not path.name.startswith(".")}


def model_digest(network_sha256: str, facts: dict[str, Any]) -> str:
    """Identity of a model: sha256 over the network's digest and the canonical form of its description."""
    canonical = json.dumps(facts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(f"{network_sha256}\n{canonical}".encode()).hexdigest()


def _from_facts(facts: dict[str, Any], network: Path, network_sha256: str) -> Model:
    if facts["format"] != _FORMAT:
        raise ModelMismatch(f"Model description of format {facts['format']}; this version reads format {_FORMAT}.")
    if facts["sha256"]["model.onnx"] != network_sha256:
        raise ModelMismatch(
            f"{network} is not the file that model.json describes (sha256 {network_sha256}); bring the model in again."
        )
    head = facts["head"]
    low, high = (float(value) for value in facts["normalisation"]["percentiles"])
    model = Model(
        name=str(facts["name"]),
        digest=model_digest(network_sha256, facts),
        network=network,
        mpp=float(facts["mpp"]),
        halo_min=int(facts["halo_min"]),
        percentiles=(low, high),
        coordinate_step=float(head["coordinate_step"]),
        window=int(head["window"]),
        peak_distance=int(head["peak_distance"]),
        seed_threshold=float(head["seed_threshold"]),
        mask_threshold=float(head["mask_threshold"]),
        overlap_threshold=float(head["overlap_threshold"]),
        min_size=int(head["min_size"]),
        pixel_classifier=_pixel_classifier(facts["pixel_classifier"]),
    )
    _refuse_nonsense(model)
    return model


def _pixel_classifier(layers: list[dict[str, Any]]) -> PixelClassifier:
    if len(layers) != 3:
        raise ModelMismatch(f"The pixel classifier has {len(layers)} layers; this head runs three.")
    weights = [np.asarray(layer["weight"], np.float32) for layer in layers]
    biases = [np.asarray(layer["bias"], np.float32) for layer in layers]
    hidden = int(biases[0].size)
    shapes = [weight.shape for weight in weights] + [bias.shape for bias in biases]
    if shapes != [(hidden, 4), (hidden, hidden), (1, hidden), (hidden,), (hidden,), (1,)]:
        raise ModelMismatch(f"The pixel classifier's layers do not fit each other: {shapes}.")
    flat = np.concatenate([part.ravel() for pair in zip(weights, biases, strict=True) for part in pair])
    if not np.isfinite(flat).all():
        raise ModelMismatch("The pixel classifier has weights that are not finite.")
    flat.setflags(write=False)
    return PixelClassifier(hidden=hidden, flat=flat)


def _refuse_nonsense(model: Model) -> None:
    low, high = model.percentiles
    sound = (
        math.isfinite(model.mpp)
        and model.mpp > 0
        and model.halo_min >= 0
        and 0 <= low < high <= 100
        and math.isfinite(model.coordinate_step)
        and model.coordinate_step > 0
        and model.window > 0
        and model.peak_distance > 0
        and math.isfinite(model.seed_threshold)
        and 0 < model.mask_threshold < 1
        and 0 < model.overlap_threshold <= 1
        and model.min_size >= 0
    )
    if not sound:
        raise ModelMismatch(f"The description of model '{model.name}' has a number that is out of range.")
