"""What network a state dict belongs to, read from its names and shapes alone.

Promises: a `Structure` says everything that is needed to build the network again: the widths of the U-Net's levels,
what each head gives, the normalisation layers, the channel-invariant adaptor in front where there is one, and the
width of the pixel classifier. Every tensor is accounted for: none is missing, none is left over.
Refuses: other architectures, and InstanSeg networks whose cells could not come out exactly as their package gives
them: other embeddings than two coordinates, normalisation over the whole tile, more levels than tile origins allow.
Pure: numpy arrays in, no torch, no I/O.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from microtome.models.refusals import ModelRefused
from microtome.segmentation.grid import STRIDE

Weights = Mapping[str, NDArray[np.float32]]
# Levels of the U-Net that tile origins at multiples of `STRIDE` allow: each but the first halves the lattice.
MAX_LEVELS = STRIDE.bit_length()
EMBEDDING = 2
MAX_SIGMA = 2
RGB = 3
# Where a state dict may have been nested: data-parallel training, TorchScript wrapper, adaptor wrapper.
_NESTING = ("module.", "fcn.", "model.")
ADAPTOR = "AdaptorNet."
_ADAPTOR_BLOCKS = ("conv_0", "down_1", "down_2", "upcat_2", "upcat_1")


@dataclass(frozen=True, slots=True)
class Adaptor:
    """The channel-invariant network in front: any number of channels in, `out_channels` out."""

    layers: tuple[int, int, int]
    out_channels: int
    # Beside each channel's own features go the maxima over all channels: appended (and mixed), or added.
    concatenates: bool


@dataclass(frozen=True, slots=True)
class Structure:
    """A network: `layers` from full resolution down, one tuple of head widths per decoder."""

    layers: tuple[int, ...]
    in_channels: int
    decoders: tuple[tuple[int, ...], ...]
    batch_norm: bool
    n_sigma: int
    dim_seeds: int
    object_classes: int
    mlp_width: int
    adaptor: Adaptor | None
    parameters: int

    @property
    def heads(self) -> tuple[int, ...]:
        """Widths of all heads in the order of their channels."""
        return tuple(width for decoder in self.decoders for width in decoder)


def bare(state: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
    """The tensors under the names that the network itself gives them, as float32.

    Raises `ModelRefused` if a tensor is not of finite numbers, or if two have the same name and differ.
    """
    found: dict[str, NDArray[np.float32]] = {}
    for name, value in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        for nesting in _NESTING:
            name = name.removeprefix(nesting)  # noqa: PLW2901 - the name, stripped step by step
        if not np.issubdtype(value.dtype, np.floating):
            raise ModelRefused(f"Tensor '{name}' is {value.dtype}, not of floating-point numbers.")
        tensor = np.ascontiguousarray(value, np.float32)
        if not np.isfinite(tensor).all():
            raise ModelRefused(f"Tensor '{name}' has values that are not finite; this training has failed.")
        if name in found and not np.array_equal(found[name], tensor):
            raise ModelRefused(f"There are two different tensors '{name}'.")
        found[name] = tensor
    return found


def read_structure(weights: Weights) -> Structure:
    """Derive the network from `bare` weights. Raises `ModelRefused`, saying what does not fit."""
    levels = _count(weights, r"encoder\.(\d+)\.")
    if not levels or not any(name.startswith("decoders.") for name in weights):
        first = ", ".join(sorted(weights)[:3]) or "nothing"
        raise ModelRefused(f"This is not an InstanSeg U-Net; its tensors are {first}…")
    layers = tuple(_shape(weights, f"encoder.{level}.conv0.0.weight", 4)[0] for level in range(levels))
    if not 2 <= levels <= MAX_LEVELS:
        raise ModelRefused(f"A U-Net of {levels} levels; tiles at multiples of {STRIDE} allow 2 to {MAX_LEVELS}.")
    decoders = tuple(
        tuple(
            _shape(weights, f"decoders.{decoder}.final_block.{head}.0.weight", 4)[0]
            for head in range(_count(weights, rf"decoders\.{decoder}\.final_block\.(\d+)\."))
        )
        for decoder in range(_count(weights, r"decoders\.(\d+)\."))
    )
    n_sigma, dim_seeds, classes = _meaning(tuple(width for decoder in decoders for width in decoder))
    structure = Structure(
        layers=layers,
        in_channels=_shape(weights, "encoder.0.conv0.0.weight", 4)[1],
        decoders=decoders,
        batch_norm="encoder.0.conv0.1.running_mean" in weights,
        n_sigma=n_sigma,
        dim_seeds=dim_seeds,
        object_classes=classes,
        mlp_width=_shape(weights, "pixel_classifier.fc1.weight", 2)[0],
        adaptor=_adaptor(weights),
        parameters=sum(value.size for name, value in weights.items() if ".running_" not in name),
    )
    _refuse_norms_over_the_tile(weights)
    _account_for_all(structure, weights)
    return structure


def expected(structure: Structure) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors of the network."""
    shapes = dict(_unet(structure))
    if structure.adaptor is not None:
        shapes.update((ADAPTOR + name, shape) for name, shape in _adaptor_tensors(structure.adaptor, structure))
    hidden, inputs = structure.mlp_width, EMBEDDING + structure.n_sigma
    for layer, (out, into) in enumerate(((hidden, inputs), (hidden, hidden), (1, hidden)), start=1):
        shapes[f"pixel_classifier.fc{layer}.weight"] = (out, into)
        shapes[f"pixel_classifier.fc{layer}.bias"] = (out,)
    return shapes


def _unet(structure: Structure) -> Iterator[tuple[str, tuple[int, ...]]]:
    layers, norm = structure.layers, structure.batch_norm
    for level, width in enumerate(layers):
        into = structure.in_channels if level == 0 else layers[level - 1]
        yield from _encoder(f"encoder.{level}", into, width, norm)
    for number, heads in enumerate(structure.decoders):
        for step, level in enumerate(range(len(layers) - 2, -1, -1)):
            yield from _decoder(f"decoders.{number}.decoder.{step}", layers[level + 1], layers[level], norm)
        for head, width in enumerate(heads):
            yield from _conv(f"decoders.{number}.final_block.{head}", layers[0], width, 1, norm)


def _encoder(name: str, into: int, out: int, norm: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _conv(f"{name}.conv0", into, out, 1, norm)
    yield from _conv(f"{name}.conv1", into, out, 3, norm)
    for conv in ("conv2", "conv3", "conv4"):
        yield from _conv(f"{name}.{conv}", out, out, 3, norm)


def _decoder(name: str, into: int, out: int, norm: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _encoder(name, into, out, norm)
    yield from _conv(f"{name}.conv_skip", out, out, 1, norm)


def _conv(name: str, into: int, out: int, size: int, norm: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.0.weight", (out, into, size, size)
    yield f"{name}.0.bias", (out,)
    if norm:
        for part in ("weight", "bias", "running_mean", "running_var"):
            yield f"{name}.1.{part}", (out,)


def _adaptor_tensors(adaptor: Adaptor, structure: Structure) -> Iterator[tuple[str, tuple[int, ...]]]:
    full, half, quarter = adaptor.layers
    norm = structure.batch_norm
    yield from _encoder("conv_0", 1, full, norm)
    yield from _encoder("down_1", full, half, norm)
    yield from _encoder("down_2", half, quarter, norm)
    yield from _decoder("upcat_2", quarter, half, norm)
    yield from _decoder("upcat_1", half, full, norm)
    if adaptor.concatenates:
        for block, width in zip(_ADAPTOR_BLOCKS, (full, half, quarter, half, full), strict=True):
            yield from _conv(f"{block}.reduce_block", 2 * width, width, 3, norm)
    yield from _conv("final_conv", full, adaptor.out_channels, 1, norm)


def _adaptor(weights: Weights) -> Adaptor | None:
    if not any(name.startswith(ADAPTOR) for name in weights):
        return None
    full, half, quarter = (
        _shape(weights, f"{ADAPTOR}{block}.conv0.0.weight", 4)[0] for block in ("conv_0", "down_1", "down_2")
    )
    return Adaptor(
        layers=(full, half, quarter),
        out_channels=_shape(weights, f"{ADAPTOR}final_conv.0.weight", 4)[0],
        concatenates=f"{ADAPTOR}conv_0.reduce_block.0.weight" in weights,
    )


def _meaning(heads: tuple[int, ...]) -> tuple[int, int, int]:
    """Sigmas, seed maps and object classes that head widths stand for: coordinates, sigmas, seeds for each class."""
    if not heads or len(heads) % 3 or heads != heads[:3] * (len(heads) // 3):
        raise ModelRefused(f"The heads give {list(heads)} channels; coordinates, sigmas and seeds were expected.")
    coordinates, sigmas, seeds = heads[:3]
    if coordinates != EMBEDDING:
        raise ModelRefused(f"The embedding has {coordinates} coordinates; this version's head knows {EMBEDDING}.")
    if sigmas > MAX_SIGMA or seeds > 2 or len(heads) > 6:
        raise ModelRefused(
            f"The heads give {list(heads)} channels; this version's head knows at most {MAX_SIGMA} sigmas, two seed "
            "maps, and two classes of objects."
        )
    return sigmas, seeds, len(heads) // 3


def _refuse_norms_over_the_tile(weights: Weights) -> None:
    for name in weights:
        if name.endswith(".1.weight") and name.replace(".1.weight", ".1.running_mean") not in weights:
            raise ModelRefused(
                f"'{name}' belongs to instance normalisation: what the network says of a pixel would depend on the "
                "whole tile, and cells at seams could not come out as on the whole slide. Train with batch "
                "normalisation."
            )


def _account_for_all(structure: Structure, weights: Weights) -> None:
    shapes = expected(structure)
    # The adaptor's last decoder has a mixing layer that it never uses; a traced network need not have kept it.
    unused = f"{ADAPTOR}upcat_1.reduce_block."
    missing = sorted(name for name in shapes if name not in weights and not name.startswith(unused))
    extra = sorted(name for name in weights if name not in shapes)
    wrong = sorted(name for name in weights if name in shapes and weights[name].shape != shapes[name])
    for what, names in (("lacks", missing), ("also has", extra), ("has another shape of", wrong)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ModelRefused(f"This is not the InstanSeg U-Net that it looks like: it {what} {names[:3]}{more}.")


def _count(weights: Weights, pattern: str) -> int:
    numbers = {int(match.group(1)) for name in weights if (match := re.match(pattern, name))}
    # Counted, not measured by the largest: a name may say anything.
    return next(number for number in range(len(numbers) + 1) if number not in numbers)


def _shape(weights: Weights, name: str, rank: int) -> tuple[int, ...]:
    if name not in weights or weights[name].ndim != rank:
        raise ModelRefused(f"This is not an InstanSeg network: there is no tensor '{name}' of {rank} dimensions.")
    return weights[name].shape
