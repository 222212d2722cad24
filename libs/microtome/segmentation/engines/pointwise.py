"""What is not a 3 × 3 convolution of many channels: the picture, the first layers, 1 × 1 convolutions, the logits.

Promises: a pixel's sums are in one order, whichever pixels are computed together with its own; a ReLU follows in the
same go. Layouts as in `winograd`. Refuses: nothing; the engine asks for what fits.
"""

from __future__ import annotations

from typing import Final

from microtome.segmentation.engines.vectors import LANES, ZEROS, Function

# Pixels of the picture and of the logits that are computed together; their numbers are multiples of 16.
TOGETHER: Final = LANES
COLOURS: Final = 3


def picture() -> Function:
    """Normalise rows of bytes: what is taken away, the factors, and the bounds, each as 48 floats one after another."""
    function = Function(
        "picture", ["ptr %bytes", "i64 %width", "ptr %numbers", "ptr %out", "i64 %row", "i64 %first", "i64 %last"]
    )
    numbers = [[function.load(function.at("%numbers", LANES * (COLOURS * kind + at))) for at in range(COLOURS)]
               for kind in range(4)]  # fmt: skip
    with function.loop("%last", 1, "%first") as rows:
        offset = function.times(rows.counter, "%width")
        line = function.gives(f"getelementptr i8, ptr %bytes, i64 {offset}")
        target = function.at("%out", function.times(rows.counter, "%row"))
        with function.loop("%width", COLOURS * LANES) as pixels:
            for at, (low, scale, least, most) in enumerate(zip(*numbers, strict=True)):
                place = function.plus(pixels.counter, LANES * at)
                byte = function.gives(f"getelementptr i8, ptr {line}, i64 {place}")
                above = function.difference(function.bytes_as_floats(byte), low)
                made = function.lower(function.larger(function.product(above, scale), least), most)
                function.store(made, function.at(target, place))
    return function


def first(kernel: int) -> Function:
    """A convolution of the picture, 3 × 3 or 1 × 1, with ReLU: rows of at least 16 pixels. Weights [taps, out]."""
    arguments = ["ptr %source", "i64 %source_row", "ptr %weights", "ptr %bias", "ptr %out", "i64 %out_row"]
    arguments += [f"i64 %{name}" for name in ("channels", "across", "first", "last")]
    function = Function(f"first_{kernel}", arguments)
    end = function.plus("%across", -TOGETHER)
    with function.loop("%last", 1, "%first") as rows, function.loop("%across", TOGETHER) as blocks:
        # The last pixels of a row are computed with some before them once more.
        pixel = function.smaller(blocks.counter, end)
        line = function.at("%source", function.times(rows.counter, "%source_row"))
        line = function.at(line, function.times(pixel, COLOURS))
        target = function.at("%out", function.times(rows.counter, "%out_row"))
        target = function.at(target, function.times(pixel, "%channels"))
        with function.loop("%channels", LANES) as vectors:
            weights = function.at("%weights", vectors.counter)
            sums = [function.load(function.at("%bias", vectors.counter))] * TOGETHER
            read = line
            for _ in range(kernel):
                for tap in range(kernel * COLOURS):
                    weight = function.load(weights)
                    weights = function.at(weights, "%channels")
                    for at in range(TOGETHER):
                        value = function.spread(function.at(read, at * COLOURS + tap))
                        sums[at] = function.fma(value, weight, sums[at])
                read = function.at(read, "%source_row")
            place = function.at(target, vectors.counter)
            for value in sums:
                function.store(function.larger(value, ZEROS), place)
                place = function.at(place, "%channels")
    return function


def pointwise() -> Function:
    """A 1 × 1 convolution with ReLU of `together` pixels at once by `multiply`; behind each row is room to read."""
    arguments = ["ptr %source", "i64 %source_row", "i64 %channels_in", "ptr %weights", "ptr %bias", "ptr %out"]
    arguments += ["i64 %out_row", "i64 %channels", "i64 %across", "i64 %together", "ptr %multiply"]
    arguments += ["i64 %first", "i64 %last", "ptr %scratch"]
    function = Function("pointwise", arguments)
    with function.loop("%last", 1, "%first") as rows, function.loop("%across", "%together") as blocks:
        line = function.at("%source", function.times(rows.counter, "%source_row"))
        line = function.at(line, function.times(blocks.counter, "%channels_in"))
        numbers = "i64 1, i64 %together, i64 %channels, i64 0, i64 0"
        function.does(f"call void %multiply(ptr {line}, ptr %weights, ptr %scratch, {numbers})")
        target = function.at("%out", function.times(rows.counter, "%out_row"))
        target = function.at(target, function.times(blocks.counter, "%channels"))
        left = function.gives(f"sub nsw i64 %across, {blocks.counter}")
        with function.loop(function.smaller("%together", left)) as pixels:
            place = function.times(pixels.counter, "%channels")
            with function.loop("%channels", LANES) as vectors:
                at = function.plus(place, vectors.counter)
                made = function.sum(
                    function.load(function.at("%scratch", at)), function.load(function.at("%bias", vectors.counter))
                )
                function.store(function.larger(made, ZEROS), function.at(target, at))
    return function


def logits(channels_in: int, planes: int) -> Function:
    """A 1 × 1 convolution to a few planes, without ReLU: rows of a multiple of 16 pixels. Weights [in, 16]."""
    arguments = ["ptr %source", "i64 %source_row", "ptr %weights", "ptr %bias", "ptr %out", "i64 %plane"]
    arguments += [f"i64 %{name}" for name in ("across", "first", "last")]
    function = Function("logits", arguments)
    bias = function.load("%bias")
    with function.loop("%last", 1, "%first") as rows, function.loop("%across", TOGETHER) as blocks:
        line = function.at("%source", function.times(rows.counter, "%source_row"))
        line = function.at(line, function.times(blocks.counter, channels_in))
        with function.loop(channels_in, carried=[bias] * TOGETHER) as inner:
            weight = function.load(function.at("%weights", function.times(inner.counter, LANES)))
            read = function.at(line, inner.counter)
            inner.values = [
                function.fma(function.spread(function.at(read, at * channels_in)), weight, value)
                for at, value in enumerate(inner.values)
            ]
        place = function.plus(function.times(rows.counter, "%across"), blocks.counter)
        for value in _turned(function, inner.values)[:planes]:
            function.store(value, function.at("%out", place))
            place = function.plus(place, "%plane")
    return function


def _turned(function: Function, vectors: list[str]) -> list[str]:
    """Exchange rows and columns of 16 vectors."""
    size = LANES // 2
    while size:
        low = [lane if not lane & size else LANES + lane - size for lane in range(LANES)]
        high = [lane + size if not lane & size else LANES + lane for lane in range(LANES)]
        for at in range(LANES):
            if not at & size:
                pair = vectors[at], vectors[at + size]
                vectors[at], vectors[at + size] = function.mixed(*pair, low), function.mixed(*pair, high)
        size //= 2
    return vectors
