"""Which values the layers of a network take, measured: what 8-bit arithmetic needs to know.

Promises: the same ranges for the same model and processor; of each layer's values the range that loses least when it is
cut into 256 steps, which is narrower than from the smallest to the largest. Refuses: to judge the outcome; see `gate`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microtome.segmentation.engine import EngineUnavailable
from microtome.segmentation.engines import memory
from microtome.segmentation.engines.emitting import emit
from microtome.segmentation.engines.network import Network, UnknownNetwork, read_network
from microtome.segmentation.engines.openvino_cpu import openvino_module
from microtome.segmentation.engines.picture import Picture, calibration_pictures
from microtome.segmentation.engines.rewriting import rewritten
from microtome.segmentation.engines.rounding import rounded_layers, sharing_ranges
from microtome.segmentation.model import Model

_BINS = 2048
# Of each layer's values on a picture, which are some millions, about so many are looked at.
_VALUES = 100_000
# Parts of the full range that are tried as its upper end.
_CUTS = np.linspace(0.3, 1.0, 36)


def calibrated_ranges(model: Model, threads: int, folder: Path | None) -> dict[int, tuple[float, float]]:
    """Give the ranges of the model's rewritten network, from `folder` if they were measured before.

    Raises `EngineUnavailable` if the network is of an unknown kind.
    """
    ov = openvino_module()
    try:
        network = rewritten(read_network(ov.Core(), model.network))
    except UnknownNetwork as error:
        raise EngineUnavailable(f"Model '{model.name}' cannot be quantised: {error}") from error
    of = {**memory.facts(model, 0, ()), "what": "ranges"}
    layers = rounded_layers(network)
    ranges = _ranges_from(memory.recall(folder, of), layers)
    if ranges is None:
        ranges = measured_ranges(ov, network, calibration_pictures(model), threads)
        memory.remember(folder, of, {str(layer): list(bounds) for layer, bounds in ranges.items()})
    return ranges


def _ranges_from(values: object, layers: Sequence[int]) -> dict[int, tuple[float, float]] | None:
    """Read what was remembered; None for anything else."""
    if not isinstance(values, dict):
        return None
    try:
        ranges = {int(layer): (float(low), float(high)) for layer, (low, high) in values.items()}
    except (TypeError, ValueError):
        return None
    sound = sorted(ranges) == list(layers) and all(
        math.isfinite(low) and math.isfinite(high) and low <= 0 <= high and low < high for low, high in ranges.values()
    )
    return ranges if sound else None


def measured_ranges(
    ov: Any,  # noqa: ANN401 - the openvino module
    network: Network,
    pictures: Sequence[Picture],
    threads: int,
) -> dict[int, tuple[float, float]]:
    """Run the network in fp32 on `pictures` and give the range of each layer that is to be rounded."""
    taps = rounded_layers(network)
    options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    request = ov.Core().compile_model(emit(ov, network, taps=taps), "CPU", options).create_infer_request()
    found: dict[int, list[NDArray[np.float32]]] = {tap: [] for tap in taps}
    for picture in pictures:
        request.infer({"pixels": picture.pixels, "low": picture.low, "scale": picture.scale})
        for at, tap in enumerate(taps):
            values = request.get_output_tensor(at + 1).data.ravel()
            found[tap].append(values[:: max(1, values.size // _VALUES)].copy())
    ranges = {tap: best_range(np.concatenate(values)) for tap, values in found.items()}
    for group in sharing_ranges(network):
        lows, highs = zip(*(ranges[layer] for layer in group), strict=True)
        ranges |= dict.fromkeys(group, (min(lows), max(highs)))
    return ranges


def best_range(values: NDArray[np.float32]) -> tuple[float, float]:
    """Give the range in which 256 steps lose least of `values`, by the mean of the squares."""
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    if high <= low:
        return 0.0, 1e-6
    counts, edges = np.histogram(values, _BINS, (low, high))
    middles = (edges[:-1] + edges[1:]) / 2
    losses = []
    for cut in _CUTS:
        bottom, top = low * cut, high * cut
        step = (top - bottom) / 255
        beyond = np.clip(middles, bottom, top) - middles
        inside = counts[beyond == 0].sum()
        losses.append(float((counts * beyond**2).sum() + inside * step**2 / 12))
    best = _CUTS[int(np.argmin(losses))]
    return low * float(best), high * float(best)
