"""Which values the layers of a network take, measured: what 8-bit arithmetic needs to know.

Promises: the same numbers for the same model and processor; of each layer's values the range that loses least when it
is cut into 256 steps, which is narrower than from the smallest to the largest; and by how much logits inside of nuclei
come out too low or too high on average when all is rounded so. That is small, but it goes one way: a network that is
hardly sure of many nuclei would lose more of them than it gains. Refuses: to judge the outcome; see `gate`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microtome.segmentation.engine import EngineUnavailable
from microtome.segmentation.engines import memory
from microtome.segmentation.engines.emitting import Ranges, emit
from microtome.segmentation.engines.network import Network, UnknownNetwork, read_network
from microtome.segmentation.engines.openvino_cpu import openvino_module
from microtome.segmentation.engines.picture import Picture, calibration_pictures
from microtome.segmentation.engines.rewriting import rewritten
from microtome.segmentation.engines.rounding import rounded_layers, sharing_ranges
from microtome.segmentation.model import Model

_BINS = 2048
# Of the logits, and which of them is the seed map.
_CHANNELS, _SEED = 5, 4
# Of each layer's values on a picture, which are some millions, about so many are looked at.
_VALUES = 100_000
# Parts of the full range that are tried as its upper end.
_CUTS = np.linspace(0.3, 1.0, 36)


@dataclass(frozen=True)
class Calibration:
    """`ranges` of every layer that is rounded, and what is then added to each channel of the logits."""

    ranges: Ranges
    shift: tuple[float, ...]


def calibrated(model: Model, threads: int, folder: Path | None) -> Calibration:
    """Calibrate the model's rewritten network, or take from `folder` what was measured before.

    Raises `EngineUnavailable` if the network is of an unknown kind.
    """
    ov = openvino_module()
    try:
        network = rewritten(read_network(ov.Core(), model.network))
    except UnknownNetwork as error:
        raise EngineUnavailable(f"Model '{model.name}' cannot be quantised: {error}") from error
    of = {**memory.facts(model, 0, ()), "what": "calibration"}
    found = _calibration_from(memory.recall(folder, of), rounded_layers(network))
    if found is None:
        pictures = calibration_pictures(model)
        ranges = measured_ranges(ov, network, pictures, threads)
        found = Calibration(ranges, measured_shift(ov, network, ranges, pictures, threads))
        kept = {"ranges": {str(layer): list(bounds) for layer, bounds in ranges.items()}, "shift": list(found.shift)}
        memory.remember(folder, of, kept)
    return found


def _calibration_from(values: object, layers: Sequence[int]) -> Calibration | None:
    """Read what was remembered; None for anything else."""
    if not isinstance(values, dict):
        return None
    try:
        ranges = {int(layer): (float(low), float(high)) for layer, (low, high) in values["ranges"].items()}
        shift = tuple(float(each) for each in values["shift"])
    except (TypeError, ValueError, LookupError, AttributeError):
        return None
    sound = sorted(ranges) == list(layers) and all(
        math.isfinite(low) and math.isfinite(high) and low <= 0 <= high and low < high for low, high in ranges.values()
    )
    return Calibration(ranges, shift) if sound and len(shift) == _CHANNELS and all(map(math.isfinite, shift)) else None


def measured_ranges(
    ov: Any,  # noqa: ANN401 - the openvino module
    network: Network,
    pictures: Sequence[Picture],
    threads: int,
) -> dict[int, tuple[float, float]]:
    """Run the network in fp32 on `pictures` and give the range of each layer that is to be rounded."""
    taps = rounded_layers(network)
    request = _request(ov, emit(ov, network, taps=taps), threads)
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


def measured_shift(
    ov: Any,  # noqa: ANN401
    network: Network,
    ranges: Ranges,
    pictures: Sequence[Picture],
    threads: int,
) -> tuple[float, ...]:
    """Run the network in fp32 and in bytes, and give how much more fp32 says on average, for each channel.

    Only inside of nuclei, where fp32's seed map is positive: of the rest no cell is made. 0 where there are none.
    """
    exact, rounded = (_request(ov, emit(ov, network, of), threads) for of in (None, ranges))
    total, pixels = np.zeros(_CHANNELS), 0
    for picture in pictures:
        feed = {"pixels": picture.pixels, "low": picture.low, "scale": picture.scale}
        wanted, found = (request.infer(feed)[0][0] for request in (exact, rounded))
        inside = wanted[_SEED] > 0
        total += (wanted - found)[:, inside].sum(axis=1, dtype=np.float64)
        pixels += int(inside.sum())
    return tuple((total / max(1, pixels)).tolist())


def _request(ov: Any, graph: Any, threads: int) -> Any:  # noqa: ANN401
    options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    return ov.Core().compile_model(graph, "CPU", options).create_infer_request()


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
