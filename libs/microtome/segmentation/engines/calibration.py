"""Which values the layers of a network take, measured: what 8-bit arithmetic needs to know.

Promises: the same numbers for the same model and processor. Channels are brought to more equal scales (`equalising`);
of each layer's values the range that loses least when it is cut into 256 steps is taken, which is narrower than from
the smallest to the largest; weights are rounded so that sums err least (`levels`); and by how much logits inside of
nuclei still come out too low or too high on average is given back. That is small, but it goes one way: a network that
is hardly sure of many nuclei would lose more of them than it gains. Refuses: to judge the outcome; see `gate`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microtome.segmentation.engine import EngineUnavailable
from microtome.segmentation.engines import memory
from microtome.segmentation.engines.emitting import InBytes, Ranges, emit
from microtome.segmentation.engines.equalising import Factors, equalised, equalising_factors
from microtome.segmentation.engines.levels import Read, levelled
from microtome.segmentation.engines.network import Network, UnknownNetwork, read_network
from microtome.segmentation.engines.openvino_cpu import openvino_module
from microtome.segmentation.engines.packing import packed, unpacked
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


@dataclass(frozen=True, eq=False)
class Seen:
    """What the layers of a network had on pictures: `values` float32 [channels, n] of those that are to be rounded, and
    what each of those with weights `read`.
    """

    values: Mapping[int, NDArray[np.float32]]
    read: Mapping[int, Read]


def calibrated(model: Model, threads: int, folder: Path | None) -> InBytes:
    """Calibrate the model's rewritten network, or take from `folder` what was measured before.

    Raises `EngineUnavailable` if the network is of an unknown kind.
    """
    ov = openvino_module()
    try:
        network = rewritten(read_network(ov.Core(), model.network))
    except UnknownNetwork as error:
        raise EngineUnavailable(f"Model '{model.name}' cannot be quantised: {error}") from error
    of = {**memory.facts(model, 0, ()), "what": "calibration"}
    found = unpacked(memory.recall(folder, of), network, _CHANNELS)
    if found is None:
        found = in_bytes(ov, network, calibration_pictures(model), threads)
        memory.remember(folder, of, packed(found))
    return found


def in_bytes(
    ov: Any,  # noqa: ANN401 - the openvino module
    network: Network,
    pictures: Sequence[Picture],
    threads: int,
) -> InBytes:
    """Prepare a network for bytes by what it does on `pictures`."""
    seen = looked_into(ov, network, pictures, threads)
    factors = equalising_factors(network, {layer: np.abs(values).max(axis=1) for layer, values in seen.values.items()})
    equal = equalised(network, factors)
    ranges = measured_ranges(equal, seen, factors)
    layers = [
        levelled(layer, seen.read[index].scaled(factors.get(layer.inputs[0]))) if index in seen.read else layer
        for index, layer in enumerate(equal.layers)
    ]
    rounded = Network(tuple(layers), network.clamp)
    return InBytes(rounded, ranges, measured_shift(ov, network, (rounded, ranges), pictures, threads))


def looked_into(
    ov: Any,  # noqa: ANN401
    network: Network,
    pictures: Sequence[Picture],
    threads: int,
) -> Seen:
    """Run the network in fp32 on `pictures` and look at what its layers hold."""
    rounded = rounded_layers(network)
    read = {index: Read.of(layer) for index, layer in enumerate(network.layers) if layer.weight is not None}
    taps = sorted({*rounded, *(network.layers[index].inputs[0] for index in read)})
    request = _request(ov, emit(ov, network, taps=taps), threads)
    values: dict[int, list[NDArray[np.float32]]] = {layer: [] for layer in rounded}
    for number, picture in enumerate(pictures):
        request.infer({"pixels": picture.pixels, "low": picture.low, "scale": picture.scale})
        outputs = {tap: request.get_output_tensor(at + 1).data[0] for at, tap in enumerate(taps)}
        for layer, kept in values.items():
            flat = outputs[layer].reshape(len(outputs[layer]), -1)
            kept.append(flat[:, :: max(1, flat.size // _VALUES)].copy())
        for index, statistics in read.items():
            reader = network.layers[index]
            statistics.add(reader, outputs[reader.inputs[0]], seed=len(network.layers) * number + index)
    return Seen({layer: np.concatenate(kept, axis=1) for layer, kept in values.items()}, read)


def measured_ranges(network: Network, seen: Seen, factors: Factors) -> dict[int, tuple[float, float]]:
    """Give the range of each layer that is to be rounded, its channels multiplied by `factors`."""
    ranges = {}
    for layer, values in seen.values.items():
        factor = factors.get(layer)
        ranges[layer] = best_range(values if factor is None else values * factor[:, None].astype(np.float32))
    for group in sharing_ranges(network):
        lows, highs = zip(*(ranges[layer] for layer in group), strict=True)
        ranges |= dict.fromkeys(group, (min(lows), max(highs)))
    return ranges


def measured_shift(
    ov: Any,  # noqa: ANN401
    network: Network,
    rounded: tuple[Network, Ranges],
    pictures: Sequence[Picture],
    threads: int,
) -> tuple[float, ...]:
    """Run the network in fp32 and in bytes, and give how much more fp32 says on average, for each channel.

    Only inside of nuclei, where fp32's seed map is positive: of the rest no cell is made. 0 where there are none.
    """
    exact, in_steps = (_request(ov, emit(ov, *of), threads) for of in ((network, None), rounded))
    total, pixels = np.zeros(_CHANNELS), 0
    for picture in pictures:
        feed = {"pixels": picture.pixels, "low": picture.low, "scale": picture.scale}
        wanted, found = (request.infer(feed)[0][0] for request in (exact, in_steps))
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
