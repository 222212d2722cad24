"""How far around what is wanted of its output each layer of a network has to be computed.

A network that is given a halo needs all of it only at first. Towards the end each layer sees less far, and what lies
further out is computed for nobody.
Promises: a layer that is computed on what is wanted and its margin gives there, where it is still needed, what it gives
on the whole picture: a layer's margin is never less than what is read of it, and what its inner edges spoil is not.
Refuses: to cut after each layer: layers of one resolution that follow one another share the largest of their margins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from microtome.segmentation.engines.disjoint import DisjointSets
from microtome.segmentation.engines.network import Layer, Network
from microtome.segmentation.grid import Rect

_ENLARGING = frozenset({"upsample", "transposed"})
# What is read is cut where it has so many more pixels on a side than its reader needs.
_WORTH = 4


@dataclass(frozen=True, slots=True)
class Cut:
    """What is left of a layer: `margin` of its pixels around what is wanted, of `before` (None: all of the picture).

    `stride`: how many pixels of the picture one of its is wide.
    """

    stride: int
    before: int | None
    margin: int

    def bounds(self, start: int, end: int) -> tuple[int, int]:
        """Return where it begins and ends along one side of the layer, if `start` to `end` of the picture is wanted.

        The end may lie beyond the layer's.
        """
        first, last = start // self.stride, end // self.stride
        begin = 0 if self.before is None else max(0, first - self.before)
        return max(0, first - self.margin) - begin, last + self.margin - begin


@dataclass(frozen=True, eq=False, slots=True)
class Trimming:
    """The cuts of a network: of what a layer reads, by (layer, input), and of what a pool makes, by layer.

    `margins`: around what is wanted, of each layer, on which it is computed as far as the picture has it; None: whole.
    """

    read: Mapping[tuple[int, int], Cut] = field(default_factory=dict)
    made: Mapping[int, Cut] = field(default_factory=dict)
    margins: tuple[int | None, ...] = ()

    @property
    def margin(self) -> int | None:
        """How much more than what is wanted the logits have on each side."""
        return self.margins[-1] if self.margins else None


def trimming(network: Network) -> Trimming:
    """Choose the cuts."""
    needed, strides = needed_margins(network), network.strides()
    groups = _groups(network, needed)
    margins = _group_margins(network, needed, groups)
    read: dict[tuple[int, int], Cut] = {}
    made: dict[int, Cut] = {}
    for index, layer in enumerate(network.layers):
        own = margins[groups[index]]
        for at in layer.inputs:
            before = margins[groups[at]]
            if groups[at] == groups[index] or own is None:
                continue
            if layer.kind == "pool":
                made[index] = Cut(strides[index], None if before is None else before // 2, own)
            else:
                read[index, at] = Cut(strides[at], before, own // 2 if layer.kind in _ENLARGING else own)
    return Trimming(read, made, tuple(margins[group] for group in groups))


def executed_flops(network: Network, trim: Trimming, width: int, height: int, wanted: Rect) -> float:
    """Operations of the convolutions for the part `wanted` of a picture; with no cuts, for all of it."""
    total = 0.0
    for index, (of_layer, stride) in enumerate(zip(network.flops_by_layer(), network.strides(), strict=True)):
        margin = trim.margins[index] if trim.margins else None
        wide = _pixels(width, stride, margin, wanted.x, wanted.x + wanted.width)
        total += of_layer * wide * _pixels(height, stride, margin, wanted.y, wanted.y + wanted.height)
    return total


def _pixels(length: int, stride: int, margin: int | None, start: int, end: int) -> int:
    """Return how many of a layer's pixels are computed along a side, times its stride."""
    if margin is None:
        return length
    return min(length, end + margin * stride) - max(0, start - margin * stride)


def needed_margins(network: Network) -> list[int]:
    """Return for each layer how many of its pixels around what is wanted are read, on each side."""
    found = [0] * len(network.layers)
    for index in range(len(network.layers) - 1, -1, -1):
        for at in network.layers[index].inputs:
            found[at] = max(found[at], _read(network.layers[index], found[index]))
    return found


def _read(layer: Layer, margin: int) -> int:
    """Return the margin of its input that a layer reads for a margin of its own."""
    if layer.kind == "convolution":
        assert layer.weight is not None, "a convolution has weights"
        return margin + int(layer.weight.shape[2]) // 2
    if layer.kind == "pool":
        return 2 * margin
    if layer.kind in _ENLARGING:
        # A transposed convolution is one of 3 × 3 on what was doubled, and reads a pixel of that more.
        return -(-(margin + (layer.kind == "transposed")) // 2)
    return margin


def _groups(network: Network, needed: list[int]) -> list[int]:
    """Give each layer the number of its group: layers that are computed on one part of the picture."""
    groups = DisjointSets(len(network.layers))
    for index, layer in enumerate(network.layers):
        for at in layer.inputs:
            changes = layer.kind in _ENLARGING or layer.kind == "pool"
            spares = layer.kind == "convolution" and needed[at] - _read(layer, needed[index]) >= _WORTH
            if not changes and not spares:
                groups.join(index, at)
    return [groups.of(index) for index in range(len(network.layers))]


def _group_margins(network: Network, needed: list[int], groups: list[int]) -> dict[int, int | None]:
    """Return the margin on which each group is computed, an even number; None: the whole picture."""
    margins: dict[int, int | None] = {}
    for index, layer in enumerate(network.layers):
        own = needed[index]
        if layer.kind in _ENLARGING:
            own = max(own, 2 * _read(layer, own))
        margins[groups[index]] = max(margins.get(groups[index]) or 0, own + own % 2)
    whole = {groups[index] for index, layer in enumerate(network.layers) if layer.kind == "picture"}
    while True:
        # What is computed everywhere reads everything.
        behind = {
            groups[at] for index, layer in enumerate(network.layers) if groups[index] in whole for at in layer.inputs
        }
        if behind <= whole:
            return margins | dict.fromkeys(whole)
        whole |= behind
