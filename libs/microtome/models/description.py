"""What is known of a model besides its weights, and the two files that say it.

`model.json` holds everything that can change a cell, its name, and nothing else. The model's digest is made over it:
the same weights with the same numbers and name have the same digest, wherever and whenever they were imported.
`about.json` holds what is worth knowing and changes no cell: where a model came from, its licence, how it was checked.
Promises: numbers are checked before anything is written. Refuses: thresholds and pixel sizes that cannot be.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microtome.models.graph import CLAMP
from microtome.models.refusals import ImportNeedsMore, ModelRefused
from microtome.models.structure import EMBEDDING, MAX_SIGMA, Structure, Weights

ABOUT_FORMAT = "microtome.about/1"
# Embedding units per pixel of the package's coordinate map at the size that networks are trained at: 64 over 255 steps.
TRAINING_STEP = 64 / 255


@dataclass(frozen=True, slots=True)
class Facts:
    """What a source says of its model. What it leaves open is what the package's own exported head would use."""

    name: str
    mpp: float | None = None
    licence: str | None = None
    version: str | None = None
    percentiles: tuple[float, float] = (0.1, 99.9)
    coordinate_step: float = TRAINING_STEP
    window: int = 32
    peak_distance: int = 5
    seed_threshold: float = 0.7
    mask_threshold: float = 0.53
    overlap_threshold: float = 0.3
    foreground_threshold: float = 0.5
    min_size: int = 10
    # Classes of objects in the order of the network's channels.
    objects: tuple[str, ...] = ()

    def checked(self) -> Facts:
        """Return itself if the numbers can be. Raises `ModelRefused`, or `ImportNeedsMore` without a pixel size."""
        if self.mpp is None or not math.isfinite(self.mpp) or self.mpp <= 0:
            raise ImportNeedsMore(
                f"Model '{self.name}' does not say how large its pixels are. Give --mpp (µm per pixel, such as 0.5)."
            )
        low, high = self.percentiles
        sound = (
            self.mpp < 100
            and 0 <= low < high <= 100
            and math.isfinite(self.coordinate_step)
            and self.coordinate_step > 0
            and 0 < self.window <= 256
            and 0 < self.peak_distance <= 100
            and math.isfinite(self.seed_threshold)
            and 0 < self.mask_threshold < 1
            and 0 < self.overlap_threshold <= 1
            and 0 < self.foreground_threshold < 1
            and self.min_size >= 0
        )
        if not sound:
            raise ModelRefused(f"Model '{self.name}' has a threshold or a size that is out of range: {self}.")
        return self


def describe(
    facts: Facts, structure: Structure, weights: Weights, network_sha256: str, halo_min: int
) -> dict[str, Any]:
    """Give the content of `model.json`."""
    return {
        "format": 1,
        "name": facts.name,
        "architecture": {
            "type": "InstanSeg_UNet" if structure.adaptor is None else "InstanSeg_UNet, channel-invariant",
            "layers": list(structure.layers),
            "parameters": structure.parameters,
        },
        "mpp": facts.mpp,
        "halo_min": halo_min,
        "normalisation": {"percentiles": list(facts.percentiles), "clamp": list(CLAMP)},
        "head": {
            "coordinate_step": facts.coordinate_step,
            "window": facts.window,
            "peak_distance": facts.peak_distance,
            "seed_threshold": facts.seed_threshold,
            "mask_threshold": facts.mask_threshold,
            "overlap_threshold": facts.overlap_threshold,
            "min_size": facts.min_size,
        },
        "pixel_classifier": _classifier(structure, weights),
        "sha256": {"model.onnx": network_sha256},
    }


def _classifier(structure: Structure, weights: Weights) -> list[dict[str, Any]]:
    """Give the layers of the pixel classifier; sigmas that the network does not have weigh nothing."""
    layers = []
    for layer in (1, 2, 3):
        weight = weights[f"pixel_classifier.fc{layer}.weight"]
        if layer == 1:
            absent = EMBEDDING + MAX_SIGMA - weight.shape[1]
            weight = np.concatenate([weight, np.zeros((structure.mlp_width, absent), np.float32)], axis=1)
        layers.append({"weight": _decimals(weight), "bias": _decimals(weights[f"pixel_classifier.fc{layer}.bias"])})
    return layers


def _decimals(values: NDArray[np.float32]) -> list[Any]:
    """Give the shortest decimals that read back as the same float32."""
    return [float(str(value)) if value.ndim == 0 else _decimals(value) for value in values]
