"""Growing seeds: which pixels the pixel classifier gives to each, and with which logit.

Promises: a seed's members do not depend on other seeds; the classifier runs on pixels that the growth visits and
nowhere else; small holes are filled inside the seed's window of 2·window pixels.
Refuses: to decide between seeds that claim the same pixel (see `compose`).
"""

from __future__ import annotations

import numba as nb
import numpy as np
from numpy.typing import NDArray

# What a window may hold besides logits: a filled hole, whose probability is the threshold itself.
HOLE = np.float32(-np.inf)
ABSENT = np.float32(np.nan)
_FREE, _MEMBER, _SEEN, _OUTSIDE = 0, 1, 2, 3
# Bound of the flood fills of the reference algorithm is the edge of the window; holes close over this radius.
_HOLE_RADIUS = 3
# Pixels that are classified together: as many float32 as the widest processors take at once.
_LANES = 16
# A place in a window as one number; windows are far smaller.
_SHIFT, _LOW = 15, (1 << 15) - 1
# For the exponential: ln 2 in two parts, of which the first has zeros behind it, and the powers of 2 there can be.
_FARTHEST, _LOG2_E, _ROUNDING = 110.0, 1.4426950408889634, 6755399441055744.0
_LN_2, _LN_2_MORE = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_HALF_OF_POWERS = 160
_POWERS = np.ldexp(1.0, np.arange(-_HALF_OF_POWERS, _HALF_OF_POWERS + 1))


@nb.njit(cache=True, nogil=True, error_model="numpy", inline="always")
def sigmoid(value: np.float32) -> np.float32:
    """The logistic function, in float32, the same on every machine."""
    # 1 + exp and its inverse are rounded to float32 as the reference rounds them: near 1 that decides which values
    # are equal. The exponential goes through double precision, and through nobody's exp: it is written out, so that the
    # compiler can take many values at once. It is 2 ** count times a series for what is left, and rounds to the
    # same float32 as the C library's for every float32 (`tests/unit/segmentation/test_grow.py`).
    at = -float(value)
    # Beyond, its float32 is 0 or infinite. What is not a number goes there, too, and comes back at the end.
    if not at > -_FARTHEST:
        at = -_FARTHEST
    if at > _FARTHEST:
        at = _FARTHEST
    # A double so large has no digits behind the point.
    count = at * _LOG2_E + _ROUNDING - _ROUNDING
    rest = (at - count * _LN_2) - count * _LN_2_MORE
    series = rest * (1 / 6227020800) + 1 / 479001600
    series = series * rest + 1 / 39916800
    series = series * rest + 1 / 3628800
    series = series * rest + 1 / 362880
    series = series * rest + 1 / 40320
    series = series * rest + 1 / 5040
    series = series * rest + 1 / 720
    series = series * rest + 1 / 120
    series = series * rest + 1 / 24
    series = series * rest + 1 / 6
    series = series * rest + 1 / 2
    exponential = (1.0 + (rest + rest * rest * series)) * _POWERS[np.int64(count) + _HALF_OF_POWERS]
    one = np.float32(1.0)
    result = np.float32(one / (one + np.float32(exponential)))
    # What is not a number equals nothing.
    return result if value == value else value


@nb.njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _above_zero(value: np.float32) -> np.float32:
    # What is not a number is not above zero; `max` would leave it.
    return value if value > np.float32(0.0) else np.float32(0.0)  # noqa: FURB136


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _classify_together(
    lanes: NDArray[np.float32], origin_x: np.float32, origin_y: np.float32, step: np.float32, w: NDArray[np.float32]
) -> None:
    """`_classify` for n = 5, written out: the same sums in the same order, for `_LANES` pixels together.

    `lanes` holds, `_LANES` of each: the first four logits, the steps from the seed, and takes the classifier's.
    """
    half, eight = np.float32(0.5), np.float32(8.0)
    for i in range(_LANES):
        a = (sigmoid(lanes[i]) - half) * eight - origin_x + lanes[4 * _LANES + i] * step
        b = (sigmoid(lanes[_LANES + i]) - half) * eight - origin_y + lanes[5 * _LANES + i] * step
        c, d = lanes[2 * _LANES + i], lanes[3 * _LANES + i]
        h0 = _above_zero(w[0] * a + w[1] * b + w[2] * c + w[3] * d + w[20])
        h1 = _above_zero(w[4] * a + w[5] * b + w[6] * c + w[7] * d + w[21])
        h2 = _above_zero(w[8] * a + w[9] * b + w[10] * c + w[11] * d + w[22])
        h3 = _above_zero(w[12] * a + w[13] * b + w[14] * c + w[15] * d + w[23])
        h4 = _above_zero(w[16] * a + w[17] * b + w[18] * c + w[19] * d + w[24])
        k0 = _above_zero(w[25] * h0 + w[26] * h1 + w[27] * h2 + w[28] * h3 + w[29] * h4 + w[50])
        k1 = _above_zero(w[30] * h0 + w[31] * h1 + w[32] * h2 + w[33] * h3 + w[34] * h4 + w[51])
        k2 = _above_zero(w[35] * h0 + w[36] * h1 + w[37] * h2 + w[38] * h3 + w[39] * h4 + w[52])
        k3 = _above_zero(w[40] * h0 + w[41] * h1 + w[42] * h2 + w[43] * h3 + w[44] * h4 + w[53])
        k4 = _above_zero(w[45] * h0 + w[46] * h1 + w[47] * h2 + w[48] * h3 + w[49] * h4 + w[54])
        out = w[55] * k0 + w[56] * k1 + w[57] * k2 + w[58] * k3 + w[59] * k4
        lanes[6 * _LANES + i] = np.float32(out + w[60])


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _classify(
    a: np.float32,
    b: np.float32,
    c: np.float32,
    d: np.float32,
    weights: NDArray[np.float32],
    hidden: NDArray[np.float32],
) -> np.float32:
    """Logit of the pixel classifier (4 → n → n → 1, ReLU); `weights` as in `PixelClassifier.flat`."""
    n = hidden.shape[0]
    zero = np.float32(0.0)
    first, second = 5 * n, 6 * n + n * n
    for i in range(n):
        at = 4 * i
        value = weights[at] * a + weights[at + 1] * b + weights[at + 2] * c + weights[at + 3] * d + weights[4 * n + i]
        hidden[i] = _above_zero(value)
    out = zero
    for i in range(n):
        value = zero
        for j in range(n):
            value += weights[first + i * n + j] * hidden[j]
        value += weights[first + n * n + i]
        out += weights[second + i] * _above_zero(value)
    return np.float32(out + weights[second + n])


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _grow(
    logits: NDArray[np.float32],
    top: int,
    left: int,
    seed_y: int,
    seed_x: int,
    step: np.float32,
    across: NDArray[np.float32],
    down: NDArray[np.float32],
    threshold: np.float32,
    weights: NDArray[np.float32],
    hidden: NDArray[np.float32],
    lanes: NDArray[np.float32],
    state: NDArray[np.uint8],
    values: NDArray[np.float32],
    queue: NDArray[np.int32],
    height: int,
    width: int,
) -> tuple[int, int, int, int]:
    """Grow one seed inside its window of `height` × `width`, as many steps as its longer side has pixels; returns the
    half-open box of its members in window coordinates.
    """
    half, eight = np.float32(0.5), np.float32(8.0)
    origin_x = (sigmoid(logits[0, seed_y, seed_x]) - half) * eight
    origin_y = (sigmoid(logits[1, seed_y, seed_x]) - half) * eight
    absolute = across.shape[0] > 0
    if absolute:
        origin_x += across[seed_x]
        origin_y += down[seed_y]
    together = hidden.shape[0] == 5 and not absolute
    limit = max(height, width)
    y0, x0, y1, x1 = height, width, 0, 0
    tail = 0
    # The seed's neighbours are asked even where the seed itself is not a member.
    for y in range(max(0, seed_y - top - 1), min(height, seed_y - top + 2)):
        for x in range(max(0, seed_x - left - 1), min(width, seed_x - left + 2)):
            state[y, x] = _SEEN
            queue[tail] = y << _SHIFT | x
            tail += 1
    begin, depth = 0, 1
    while begin < tail:
        end = tail
        for first in range(begin, end, _LANES):
            count = min(_LANES, end - first)
            for i in range(count):
                y, x = queue[first + i] >> _SHIFT, queue[first + i] & _LOW
                row, column = top + y, left + x
                for channel in range(4):
                    lanes[channel * _LANES + i] = logits[channel, row, column]
                lanes[4 * _LANES + i] = column - seed_x
                lanes[5 * _LANES + i] = row - seed_y
            if together:
                _classify_together(lanes, origin_x, origin_y, step, weights)
            else:
                for i in range(count):
                    field_x = (sigmoid(lanes[i]) - half) * eight
                    field_y = (sigmoid(lanes[_LANES + i]) - half) * eight
                    if absolute:
                        field_x = field_x + across[seed_x + int(lanes[4 * _LANES + i])] - origin_x
                        field_y = field_y + down[seed_y + int(lanes[5 * _LANES + i])] - origin_y
                    else:
                        field_x = field_x - origin_x + lanes[4 * _LANES + i] * step
                        field_y = field_y - origin_y + lanes[5 * _LANES + i] * step
                    lanes[6 * _LANES + i] = _classify(
                        field_x, field_y, lanes[2 * _LANES + i], lanes[3 * _LANES + i], weights, hidden
                    )
            for i in range(count):
                value = lanes[6 * _LANES + i]
                if not value >= threshold:
                    continue
                y, x = queue[first + i] >> _SHIFT, queue[first + i] & _LOW
                # Off the ground nothing grows (`patches.NOWHERE`).
                if logits[4, top + y, left + x] == -np.inf:
                    continue
                state[y, x] = _MEMBER
                values[y, x] = value
                y0, x0, y1, x1 = min(y0, y), min(x0, x), max(y1, y + 1), max(x1, x + 1)
                if depth == limit:
                    continue
                for v in range(max(0, y - 1), min(height, y + 2)):
                    for u in range(max(0, x - 1), min(width, x + 2)):
                        if state[v, u] == _FREE:
                            state[v, u] = _SEEN
                            queue[tail] = v << _SHIFT | u
                            tail += 1
        begin = end
        depth += 1
    return y0, x0, y1, x1


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _rows_are_whole(state: NDArray[np.uint8], y0: int, x0: int, y1: int, x1: int) -> bool:
    """Whether each row has its members side by side: then every other pixel can leave sideways."""
    for y in range(y0, y1):
        runs, inside = 0, False
        for x in range(x0, x1):
            member = state[y, x] == _MEMBER
            if member and not inside:
                runs += 1
            inside = member
        if runs > 1:
            return False
    return True


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _fill_holes(
    state: NDArray[np.uint8],
    values: NDArray[np.float32],
    near: NDArray[np.uint8],
    queue: NDArray[np.int32],
    limit: int,
    y0: int,
    x0: int,
    y1: int,
    x1: int,
) -> None:
    """Make members of the pixels of the box that no pixel further than `_HOLE_RADIUS` from the object reaches."""
    height, width = y1 - y0, x1 - x0
    for y in range(height):
        for x in range(width):
            hit = 0
            for u in range(max(0, x - _HOLE_RADIUS), min(width, x + _HOLE_RADIUS + 1)):
                if state[y0 + y, x0 + u] == _MEMBER:
                    hit = 1
                    break
            near[y, x] = hit
    tail = 0
    for y in range(height):
        for x in range(width):
            hit = 0
            for v in range(max(0, y - _HOLE_RADIUS), min(height, y + _HOLE_RADIUS + 1)):
                if near[v, x]:
                    hit = 1
                    break
            if hit == 0:
                state[y0 + y, x0 + x] = _OUTSIDE
                queue[tail] = y * width + x
                tail += 1
    begin, depth = 0, 0
    while begin < tail and depth < limit:
        end = tail
        for i in range(begin, end):
            y = queue[i] // width
            x = queue[i] - y * width
            for v in range(max(0, y - 1), min(height, y + 2)):
                for u in range(max(0, x - 1), min(width, x + 2)):
                    at = state[y0 + v, x0 + u]
                    if at != _MEMBER and at != _OUTSIDE:
                        state[y0 + v, x0 + u] = _OUTSIDE
                        queue[tail] = v * width + u
                        tail += 1
        begin = end
        depth += 1
    for y in range(y0, y1):
        for x in range(x0, x1):
            if state[y, x] != _MEMBER and state[y, x] != _OUTSIDE:
                state[y, x] = _MEMBER
                values[y, x] = HOLE


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _enlarged(pool: NDArray[np.float32], used: int, size: int) -> NDArray[np.float32]:
    larger = np.empty(size, np.float32)
    for i in range(used):
        larger[i] = pool[i]
    return larger


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _is_cut(
    y0: int, x0: int, y1: int, x1: int, top: int, left: int, height: int, width: int, image: tuple[int, int]
) -> bool:
    """Whether a box of members lies against a side of its window that is not the image's own."""
    return bool(
        (y0 == 0 and top > 0)
        or (x0 == 0 and left > 0)
        or (y1 == height and top + height < image[0])
        or (x1 == width and left + width < image[1])
    )


@nb.njit(cache=True, nogil=True, error_model="numpy")
def grow_all(
    logits: NDArray[np.float32],
    image: tuple[int, int],
    seeds: NDArray[np.int32],
    window: int,
    window_max: int,
    step: np.float32,
    across: NDArray[np.float32],
    down: NDArray[np.float32],
    threshold: np.float32,
    weights: NDArray[np.float32],
    width_of_mlp: int,
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
    """Every seed's members: box int32 [n, 4], start int64 [n + 1] and the boxes' logits one after the other.

    `image`: height and width of what is looked at of `logits`, from its first pixel on. Whoever lies against its
    window's side is grown again in one of twice the size, up to `window_max`. Who was: bool [n]; who lies against the
    last one's side too: bool [n]. `across` float32 [w] and `down` float32 [h]: coordinates in place of steps from the
    seed; empty for steps.
    """
    count = seeds.shape[0]
    hidden = np.empty(width_of_mlp, np.float32)
    lanes = np.zeros(7 * _LANES, np.float32)
    room = (min(2 * window_max, image[0]), min(2 * window_max, image[1]))
    state = np.zeros(room, np.uint8)
    values = np.empty(room, np.float32)
    near = np.empty(room, np.uint8)
    queue = np.empty(room[0] * room[1], np.int32)
    boxes = np.zeros((count, 4), np.int32)
    starts = np.zeros(count + 1, np.int64)
    regrown, cut = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
    pool = np.empty(max(1024, 512 * count), np.float32)
    margin = _HOLE_RADIUS + 1
    for k in range(count):
        seed_y, seed_x = seeds[k, 0], seeds[k, 1]
        half = window
        while True:
            height, width = min(2 * half, image[0]), min(2 * half, image[1])
            top = max(0, min(seed_y - half, image[0] - height))
            left = max(0, min(seed_x - half, image[1] - width))
            y0, x0, y1, x1 = _grow(
                logits, top, left, seed_y, seed_x, step, across, down, threshold, weights, hidden, lanes, state,
                values, queue, height, width,
            )  # fmt: skip
            a0, b0 = max(0, min(y0, seed_y - top) - margin), max(0, min(x0, seed_x - left) - margin)
            a1, b1 = min(height, max(y1, seed_y - top + 1) + margin), min(width, max(x1, seed_x - left + 1) + margin)
            cut[k] = y1 > 0 and _is_cut(y0, x0, y1, x1, top, left, height, width, image)
            if not cut[k] or half >= window_max:
                break
            regrown[k] = True
            half = min(2 * half, window_max)
            state[a0:a1, b0:b1] = _FREE
        if y1 > 0:
            inside = y0 >= margin and x0 >= margin and y1 + margin <= height and x1 + margin <= width
            if not inside or not _rows_are_whole(state, y0, x0, y1, x1):
                # Only at the window's border can filling go beyond the members' own box.
                _fill_holes(state, values, near, queue, max(height, width), a0, b0, a1, b1)
                if not inside:
                    y0, x0, y1, x1 = a0, b0, a1, b1
            need = starts[k] + (y1 - y0) * (x1 - x0)
            if need > pool.shape[0]:
                pool = _enlarged(pool, starts[k], 2 * need)
            at = starts[k]
            for y in range(y0, y1):
                for x in range(x0, x1):
                    pool[at] = values[y, x] if state[y, x] == _MEMBER else ABSENT
                    at += 1
            boxes[k, 0], boxes[k, 1], boxes[k, 2], boxes[k, 3] = top + y0, left + x0, top + y1, left + x1
            starts[k + 1] = at
        else:
            boxes[k, 0], boxes[k, 1], boxes[k, 2], boxes[k, 3] = seed_y, seed_x, seed_y, seed_x
            starts[k + 1] = starts[k]
        state[a0:a1, b0:b1] = _FREE
    return boxes, starts, pool, regrown, cut
