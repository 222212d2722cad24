"""3 × 3 convolutions by Winograd's F(4 × 4, 3 × 3): 36 multiplications where 144 would be.

A tile of 4 × 4 pixels of the output is made of 6 × 6 of the input: both transformed by additions and small factors,
between them one product of matrices for each of the 36 places. A pixel's layout is [row, column, channel], its
channels in vectors of 16.
Promises: a pixel's sums are in one order, whichever tiles are computed together with its own. What is behind the
convolution is done while its output is in registers: bias, ReLU, a sum with another picture (of the same size, or
doubled), and the largest of each 2 × 2. The picture may be read doubled.
Refuses: nothing; channels are multiples of 16, and pictures have a border of a pixel around (see `arena`).
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from microtome.segmentation.engines.network import Weights
from microtome.segmentation.engines.vectors import LANES, ZEROS, Function, constant

TILE: Final = 4
_SEEN: Final = 6
PLACES: Final = _SEEN * _SEEN
# Vectors of output channels and tiles whose sums are in registers, of which there are 32.
_SHAPES: Final = {1: 28, 2: 12}
# What a call is told, in this order, as 64-bit integers; strides count floats.
FIELDS: Final = (
    "source", "source_row", "channels_in", "weights", "bias", "out", "out_row", "channels_out", "other", "other_row",
    "pooled", "pooled_row", "across", "tiles", "step_in", "step_out", "transform", "multiply", "finish",
)  # fmt: skip
# Where the polynomials are evaluated: at 0, at these with both signs, and at infinity. Rounding is felt half as much
# as at 1 and 2, and all factors of the transforms are floats.
_NEAR: Final = 0.75
_FAR: Final = 1.5
_CALLED: Final = ("ptr %call", "i64 %first", "i64 %last", "ptr %scratch")


def vectors_at_once(channels_out: int) -> int:
    """Vectors of output channels that are computed together."""
    return 2 if channels_out % (2 * LANES) == 0 else 1


def tiles_at_once(channels_out: int) -> int:
    """Tiles (or pixels) that are computed together, a multiple of which is best given."""
    return _SHAPES[vectors_at_once(channels_out)]


def laid_out(matrices: Weights) -> Weights:
    """Lay [n, in, out] out in the order in which `multiply` reads it."""
    number, channels_in, channels_out = matrices.shape
    wide = LANES * vectors_at_once(channels_out)
    parts = matrices.reshape(number, channels_in, channels_out // wide, wide).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(parts, np.float32)


def transformed(weight: Weights) -> Weights:
    """Give for weights [out, in, 3, 3] the matrices of the 36 places, laid out."""
    sides = _sides()
    # In doubles: the weights are what all sums have in common.
    places = np.einsum("yk,xl,oikl->yxio", sides, sides, weight.astype(np.float64))
    return laid_out(places.reshape(PLACES, weight.shape[1], weight.shape[0]).astype(np.float32))


def field(function: Function, name: str, kind: str = "i64") -> str:
    """Read what the call was told."""
    place = function.gives(f"getelementptr i64, ptr %call, i64 {FIELDS.index(name)}")
    return function.gives(f"load {kind}, ptr {place}, align 8")


def driver() -> Function:
    """Tiles `first` to `last` (excluded), block by block; `scratch`: room for a block before and after the product."""
    function = Function("winograd", _CALLED)
    steps = [field(function, name, "ptr") for name in ("transform", "multiply", "finish")]
    tiles, step_in = field(function, "tiles"), field(function, "step_in")
    after = function.at("%scratch", function.times(PLACES, step_in))
    weights = field(function, "weights", "ptr")
    channels_out, step_out = field(function, "channels_out"), field(function, "step_out")
    with function.loop("%last", tiles, "%first") as blocks:
        function.does(f"call void {steps[0]}(ptr %call, i64 {blocks.counter}, i64 %last, ptr %scratch)")
        numbers = f"i64 {PLACES}, i64 {tiles}, i64 {channels_out}, i64 {step_in}, i64 {step_out}"
        function.does(f"call void {steps[1]}(ptr %scratch, ptr {weights}, ptr {after}, {numbers})")
        function.does(f"call void {steps[2]}(ptr %call, i64 {blocks.counter}, i64 %last, ptr {after})")
    return function


def multiplication(channels_in: int, vectors: int) -> Function:
    """Products of matrices: [n][rows, in] · [n][in, out] = [n][rows, out], with rows a multiple of what is at once."""
    rows = _SHAPES[vectors]
    arguments = ["ptr %left", "ptr %right", "ptr %result"]
    arguments += [f"i64 %{name}" for name in ("number", "rows", "out", "left_step", "result_step")]
    function = Function(f"multiply_{channels_in}_{vectors}", arguments)
    wide, together = LANES * vectors, next(size for size in (4, 3, 1) if channels_in % size == 0)
    right_step = function.times("%out", channels_in)
    with function.loop("%number") as places, function.loop("%out", wide) as columns:
        left = function.at("%left", function.times(places.counter, "%left_step"))
        right = function.at("%right", function.times(places.counter, right_step))
        right = function.at(right, function.times(columns.counter, channels_in))
        result = function.at("%result", function.times(places.counter, "%result_step"))
        result = function.at(result, columns.counter)
        with function.loop("%rows", rows) as blocks:
            block = function.at(left, function.times(blocks.counter, channels_in))
            with function.loop(channels_in, together, carried=[ZEROS] * (rows * vectors)) as inner:
                sums = inner.values
                values, weights = function.at(block, inner.counter), function.times(inner.counter, wide)
                weights = function.at(right, weights)
                for step in range(together):
                    read = [function.load(function.at(weights, step * wide + LANES * at)) for at in range(vectors)]
                    for row in range(rows):
                        value = function.spread(function.at(values, row * channels_in + step))
                        for at, weight in enumerate(read):
                            sums[row * vectors + at] = function.fma(value, weight, sums[row * vectors + at])
            target = function.at(result, function.times(blocks.counter, "%out"))
            for row in range(rows):
                for at in range(vectors):
                    function.store(sums[row * vectors + at], function.at(target, LANES * at))
                target = function.at(target, "%out")
    return function


def transformation(doubled: bool) -> Function:
    """Transform the 6 × 6 pixels of each tile of a block; of a picture that is read doubled, 4 × 4."""
    function = Function("transform_doubled" if doubled else "transform", _CALLED)
    source, row = field(function, "source", "ptr"), field(function, "source_row")
    channels, step = field(function, "channels_in"), field(function, "step_in")
    stride, seen = (TILE // 2, TILE) if doubled else (TILE, _SEEN)
    # Pixel j - 1 of a doubled picture is pixel (j - 1) // 2, and the first that is read is pixel -1.
    reads = [(j - 1) // 2 + 1 for j in range(_SEEN)] if doubled else list(range(_SEEN))
    with function.loop(field(function, "tiles")) as tiles:
        down, across = _place(function, tiles.counter)
        corner = function.at(source, function.times(function.times(down, stride), row))
        corner = function.at(corner, function.times(function.times(across, stride), channels))
        target = function.at("%scratch", function.times(tiles.counter, channels))
        with function.loop(channels, LANES) as vectors:
            line, lines = function.at(corner, vectors.counter), []
            for _ in range(seen):
                pixels = [line]
                for _ in range(seen - 1):
                    pixels.append(function.at(pixels[-1], channels))
                lines.append(pixels)
                line = function.at(line, row)
            columns = []
            for at in range(seen):
                read = [function.load(pixels[at]) for pixels in lines]
                columns.append(_inputs(function, [read[j] for j in reads]))
            to = function.at(target, vectors.counter)
            for y in range(_SEEN):
                for made in _inputs(function, [columns[j][y] for j in reads]):
                    function.store(made, to)
                    to = function.at(to, step)
    return function


def finishing(other: str, pools: bool) -> Function:
    """Transform the products of each tile of a block back. `other`: "none", or what is added: "same", "doubled"."""
    function = Function(f"finish_{other}_{'pooled' if pools else 'only'}", _CALLED)
    channels, step, bias = field(function, "channels_out"), field(function, "step_out"), field(function, "bias", "ptr")
    names = ["out", *(["other"] if other != "none" else []), *(["pooled"] if pools else [])]
    begins = {name: (field(function, name, "ptr"), field(function, f"{name}_row")) for name in names}
    with function.loop(field(function, "tiles")) as tiles:
        down, across = _place(function, tiles.counter)
        corners = {}
        for name, (begin, row) in begins.items():
            stride = TILE // 2 if name == "pooled" or (name == "other" and other == "doubled") else TILE
            corner = function.at(begin, function.times(function.times(down, stride), row))
            corners[name] = function.at(corner, function.times(function.times(across, stride), channels))
        source = function.at("%scratch", function.times(tiles.counter, channels))
        with function.loop(channels, LANES) as vectors:
            added = function.load(function.at(bias, vectors.counter))
            made = _pixels(function, function.at(source, vectors.counter), step)
            made = [[function.larger(function.sum(pixel, added), ZEROS) for pixel in line] for line in made]
            places = {name: function.at(corner, vectors.counter) for name, corner in corners.items()}
            if other != "none":
                edge = TILE if other == "same" else TILE // 2
                read = _read(function, places["other"], begins["other"][1], channels, edge)
                made = [
                    [function.sum(pixel, read[y * edge // TILE][x * edge // TILE]) for x, pixel in enumerate(line)]
                    for y, line in enumerate(made)
                ]
            _write(function, made, places["out"], begins["out"][1], channels)
            if pools:
                halves = [[function.larger(line[x], line[x + 1]) for x in (0, 2)] for line in made]
                small = [[function.larger(halves[y][x], halves[y + 1][x]) for x in (0, 1)] for y in (0, 2)]
                _write(function, small, places["pooled"], begins["pooled"][1], channels)
    return function


def _place(function: Function, number: str) -> tuple[str, str]:
    """Row and column of a block's tile; those behind the last one are the last one once more."""
    last = function.plus("%last", -1)
    tile = function.smaller(function.plus("%first", number), last)
    tiles = field(function, "across")
    down = function.gives(f"sdiv i64 {tile}, {tiles}")
    return down, function.gives(f"sub nsw i64 {tile}, {function.times(down, tiles)}")


def _sides() -> NDArray[np.float64]:
    """What three weights are multiplied by for the six places of a side."""
    points = [0.0, _NEAR, -_NEAR, _FAR, -_FAR]
    apart = [math.prod(point - other for other in points if other != point) for point in points]
    powers = [[point**power / by for power in range(3)] for point, by in zip(points, apart, strict=True)]
    return np.array([*powers, [0.0, 0.0, 1.0]], np.float64)


def _inputs(function: Function, d: list[str]) -> list[str]:
    """Transform six values of the input."""
    near, far = _NEAR**2, _FAR**2
    made = []
    for point, other in ((_NEAR, far), (_FAR, near)):
        even = function.fma(constant(-other), d[2], d[4])
        odd = function.fma(constant(-other), d[1], d[3])
        made += [function.fma(constant(sign * point), odd, even) for sign in (1, -1)]
    ends = []
    for at in (0, 1):
        end = function.fma(constant(near * far), d[at], d[at + 4])
        ends.append(function.fma(constant(-near - far), d[at + 2], end))
    return [ends[0], *made, ends[1]]


def _outputs(function: Function, m: list[str]) -> list[str]:
    """Transform six products into four values of the output."""
    sums = [function.sum(m[1], m[2]), function.sum(m[3], m[4])]
    differences = [function.difference(m[1], m[2]), function.difference(m[3], m[4])]

    def mixed(of: list[str], power: int, to: str | None = None) -> str:
        near, far = constant(_NEAR**power), constant(_FAR**power)
        first = function.product(near, of[0]) if to is None else function.fma(near, of[0], to)
        return function.fma(far, of[1], first)

    return [
        function.sum(m[0], function.sum(*sums)),
        mixed(differences, 1),
        mixed(sums, 2),
        mixed(differences, 3, m[5]),
    ]


def _pixels(function: Function, source: str, step: str) -> list[list[str]]:
    columns = []
    for x in range(_SEEN):
        places = [function.at(source, function.times(step, y * _SEEN + x)) for y in range(_SEEN)]
        columns.append(_outputs(function, [function.load(place) for place in places]))
    return [_outputs(function, [column[y] for column in columns]) for y in range(TILE)]


def _read(function: Function, place: str, row: str, channels: str, edge: int) -> list[list[str]]:
    lines = []
    for _ in range(edge):
        pixel, line = place, []
        for _ in range(edge):
            line.append(function.load(pixel))
            pixel = function.at(pixel, channels)
        lines.append(line)
        place = function.at(place, row)
    return lines


def _write(function: Function, lines: list[list[str]], place: str, row: str, channels: str) -> None:
    for line in lines:
        pixel = place
        for value in line:
            function.store(value, pixel)
            pixel = function.at(pixel, channels)
        place = function.at(place, row)
