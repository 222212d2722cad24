"""Tiles that are hard on a head, made from numbers: integers and exact arithmetic, so that every machine makes the
same ones.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tests.parity.cases import GRAIN, Case, Settings

# Values of the first brightfield model's five channels within and outside of a nucleus.
_INSIDE = np.array([0.0, -1.25, 1.5, -0.4375, 0.0])
_OUTSIDE = np.array([-0.25, 0.4375, -1.5, 1.375, -7.5])


def grains(values: np.ndarray) -> np.ndarray:
    """Round to multiples of 1 / GRAIN; float32, without negative zeros."""
    return np.ascontiguousarray(np.rint(values * GRAIN) / GRAIN + 0.0, np.float32)


def smooth(rng: np.random.Generator, shape: tuple[int, ...], blur: int) -> np.ndarray:
    """Noise of about unit variance, smooth over `blur` pixels; from integers alone."""
    reach = 3 * blur
    noise = rng.integers(-(2**12), 2**12, (*shape[:-2], shape[-2] + reach, shape[-1] + reach), dtype=np.int64)
    for axis in (-2, -1):
        for _ in range(3):
            summed = np.cumsum(noise, axis=axis)
            size = summed.shape[axis]
            later = np.take(summed, np.arange(blur, size), axis=axis)
            noise = later - np.take(summed, np.arange(size - blur), axis=axis)
    # Three boxes of width n leave about 0.55 n^5 of the variance, along each axis.
    return noise / (0.55 * float(blur) ** 5 * (2**12) * 0.577)


def nuclei(
    seed: int, size: tuple[int, int], places: list[tuple[int, int]], radii: tuple[int, int] = (5, 9), rough: float = 0.2
) -> np.ndarray:
    """Logits of nuclei at these (y, x), which may lie on and beyond the border."""
    rng = np.random.default_rng(seed)
    height, width = size
    logits = np.empty((5, height, width))
    logits[:] = _OUTSIDE[:, None, None]
    ys, xs = np.mgrid[:height, :width]
    for y, x in places:
        radius = int(rng.integers(radii[0], radii[1] + 1))
        tall = int(rng.integers(-1, 2)) + radius
        top, bottom = max(0, y - 2 * radius), min(height, y + 2 * radius + 1)
        left, right = max(0, x - 2 * radius), min(width, x + 2 * radius + 1)
        part = np.s_[top:bottom, left:right]
        near = (ys[part] - y) ** 2 / tall**2 + (xs[part] - x) ** 2 / radius**2
        inside = near <= 1
        for channel in range(4):
            logits[channel][part][inside] = _INSIDE[channel]
        logits[0][part][inside] += (xs[part] - x)[inside] * -0.125
        logits[1][part][inside] += (ys[part] - y)[inside] * -0.125
        logits[4][part] = np.maximum(logits[4][part], 4.5 - 9 * near)
    return grains(logits + rough * smooth(rng, (5, height, width), 3))


def lattice(size: tuple[int, int], spacing: int, start: int = 0) -> list[tuple[int, int]]:
    return [(y, x) for y in range(start, size[0], spacing) for x in range(start, size[1], spacing)]


def scattered(seed: int, size: tuple[int, int], count: int) -> list[tuple[int, int]]:
    rng = np.random.default_rng(seed)
    return [
        (int(y), int(x)) for y, x in zip(rng.integers(0, size[0], count), rng.integers(0, size[1], count), strict=True)
    ]


def noise(seed: int, size: tuple[int, int], blur: int, spread: float) -> np.ndarray:
    """Smooth fields without meaning, in which overlaps, holes and windows full to the border are all frequent."""
    rng = np.random.default_rng(seed)
    gains = np.array([spread, spread, 2, 2, 6])
    return grains(np.clip(smooth(rng, (5, *size), blur) * gains[:, None, None], -60, 60))


def seeds_only(size: tuple[int, int], places: dict[tuple[int, int], float]) -> np.ndarray:
    """Nothing but seeds of these values: with a classifier that knows distances alone, each grows its own shape."""
    logits = np.zeros((5, *size))
    logits[4] = -20
    for at, value in places.items():
        logits[4][at] = value
    return grains(logits)


def pierced(seed: int, size: tuple[int, int], holes: range) -> np.ndarray:
    """Nuclei with holes of growing radius: up to 3 pixels from the object they are filled."""
    places = [(24 + 48 * (k // 4), 24 + 48 * (k % 4)) for k in range(len(holes))]
    logits = nuclei(seed, size, places, (16, 18), 0.0)
    ys, xs = np.mgrid[: size[0], : size[1]]
    for (y, x), radius in zip(places, holes, strict=True):
        hole = (ys - y) ** 2 + (xs - x - 5) ** 2 <= radius**2
        logits[:4, hole] = _OUTSIDE[:4, None]
        logits[4, y, x] = 6
    return grains(logits)


def snake(size: tuple[int, int]) -> np.ndarray:
    """A winding band, which floods in many small steps and leaves its window."""
    logits = np.empty((5, *size))
    logits[:] = _OUTSIDE[:, None, None]
    band = np.zeros(size, bool)
    for k, y in enumerate(range(4, size[0] - 4, 6)):
        band[y : y + 3, 4 : size[1] - 4] = True
        edge = slice(size[1] - 7, size[1] - 4) if k % 2 == 0 else slice(4, 7)
        band[y : y + 9, edge] = True
    logits[:4, band] = _INSIDE[:4, None]
    logits[1] = 0
    logits[4][size[0] // 2 : size[0] // 2 + 2, size[1] // 2] = 3
    return grains(logits)


def diamonds(gain: float, reach: float, sigma: float = 0.0, slope: float = 1.0) -> np.ndarray:
    """A classifier whose logit is gain · (reach - slope · (|dx| + |dy|) + sigma · the third input), in embedding units.

    `gain` a power of two: every product is exact, and equal distances give equal logits.
    """
    first = np.array([[1, 0, 0, 0], [-1, 0, 0, 0], [0, 1, 0, 0], [0, -1, 0, 0], [0, 0, 1, 0]])
    second = np.zeros((5, 5))
    second[0, :4], second[1, 4] = slope, 1
    last = np.array([-gain, gain * sigma, 0, 0, 0])
    parts = (first, np.zeros(5), second, np.zeros(5), last, np.array([gain * reach]))
    return np.concatenate([part.ravel() for part in parts]).astype(np.float32)


def random_classifier(seed: int) -> np.ndarray:
    """Weights as a training might start with."""
    rng = np.random.default_rng(seed)
    return (rng.integers(-(2**16), 2**16, 61) / 2**16 * 1.25).astype(np.float32)


CLASSIFIERS = {
    "diamonds": diamonds(2.0, 2.0),
    "saturated diamonds": diamonds(64.0, 2.0),
    "wide diamonds": diamonds(4.0, 12.0),
    "diamonds and sigma": diamonds(4.0, 1.5, 0.5),
    # What the third channel paints is the object, whatever its size.
    "painted": diamonds(4.0, -0.5, 1.0, 1 / 256),
    "painted, wherever": diamonds(4.0, -0.5, 1.0, 0.0),
    **{f"random {k}": random_classifier(k) for k in range(6)},
}


def recipes() -> Iterator[Case]:
    """All cases that numbers make."""
    yield from _counts()
    yield from _borders()
    yield from _ties()
    yield from _shapes()
    yield from _thresholds()
    yield from _fields()


def _case(family: str, name: str, logits: np.ndarray, classifier: str = "first", **settings: float) -> Case:
    return Case(
        name=f"{family}: {name}",
        family=family,
        classifier=classifier,
        settings=Settings(**settings),  # type: ignore[arg-type]
        logits=logits,
    )


def _counts() -> Iterator[Case]:
    size = (128, 144)
    yield _case("counts", "none", nuclei(0, size, []))
    yield _case("counts", "one", nuclei(1, size, [(60, 70)]))
    yield _case("counts", "300", nuclei(2, (256, 288), lattice((256, 288), 15, 8)))
    yield _case("counts", "800", nuclei(3, (400, 384), lattice((400, 384), 14, 7), (4, 7)))
    yield _case("counts", "more than 4,000", nuclei(4, (528, 544), lattice((528, 544), 8, 4), (2, 3), 0.1))


def _borders() -> Iterator[Case]:
    size = (128, 160)
    bottom, right = size[0] - 1, size[1] - 1
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right)]
    edges = [(0, 80), (64, 0), (bottom, 60), (70, right)]
    yield _case("borders", "corners", nuclei(10, size, corners))
    yield _case("borders", "edges", nuclei(11, size, edges))
    yield _case("borders", "beyond", nuclei(12, size, [(-4, 40), (64, -5), (bottom + 4, 90), (30, right + 5)]))
    ring = [(y, x) for y in (3, bottom - 3) for x in range(3, right, 12)]
    ring += [(y, x) for x in (3, right - 3) for y in range(3, bottom, 12)]
    yield _case("borders", "all around", nuclei(13, size, ring))
    yield _case("borders", "as small as a window", nuclei(14, (64, 64), lattice((64, 64), 14, 2)))
    places = dict.fromkeys([*corners, *edges], 4.0)
    yield _case("borders", "diamonds", seeds_only(size, places), "wide diamonds")


def _ties() -> Iterator[Case]:
    size = (128, 144)
    even = dict.fromkeys(lattice(size, 10, 5), 4.0)
    yield _case("ties", "equal seeds, equal distances", seeds_only(size, even), "diamonds")
    yield _case("ties", "probabilities of one", seeds_only(size, even), "saturated diamonds")
    some = {(y, x): value for (y, x), value in even.items() if y < 80 and x < 80}
    yield _case("ties", "everything overlaps", seeds_only((80, 96), some), "wide diamonds")
    close = {(40, 20 + 5 * k): 3.0 for k in range(12)} | {(80 + 5 * (k % 2), 20 + 6 * k): 3.0 for k in range(12)}
    yield _case("ties", "seeds as near as may be", seeds_only(size, close), "diamonds", overlap_threshold=0.6)
    yield _case("ties", "plateaus", grains(np.round(noise(20, size, 4, 0.5) / 4) * 4))
    yield _case("ties", "wide plateaus", grains(np.round(noise(21, size, 9, 1.0) / 8) * 8))
    for value in (-30.0, 0.0, 30.0):
        yield _case("ties", f"constant {value:.0f}", np.full((5, 80, 96), value, np.float32))
    board = np.zeros((5, *size), np.float32)
    board[4] = np.where(np.indices(size).sum(0) % 2, 6, 2)
    yield _case("ties", "chessboard", board, "diamonds")
    stripes = np.zeros((5, *size), np.float32)
    stripes[4] = np.where(np.arange(size[1]) % 7 == 3, 4, -8)
    yield _case("ties", "stripes", stripes, "saturated diamonds")
    # Windows of 24 cut three bands; of each the two seeds share 17 of 31 columns, 16 of 32, 15 of 33.
    bands = np.zeros((5, 64, 96), np.float32)
    bands[2], bands[4] = _OUTSIDE[2], -20
    for row, apart in ((12, 7), (32, 8), (52, 9)):
        bands[2, row - 2 : row + 3] = _INSIDE[2]
        bands[4, row, [44, 44 + apart]] = 4
    yield _case("ties", "overlaps around half", grains(bands), "painted", window=12, overlap_threshold=0.5)
    # Discs whose rims have just the probability that is asked for; the second one's seed has just the value.
    level = np.zeros((5, 80, 96), np.float32)
    level[4] = -20
    for x, seed in ((28, 4), (68, 0)):
        away = np.hypot(*(np.indices((80, 96)) - np.array([40, x])[:, None, None]))
        level[2] += 0.5 * (away <= 12) + 1.5 * (away <= 8)
        level[4, 40, x] = seed
    yield _case("ties", "what is asked for", level, "painted, wherever", mask_threshold=0.5, seed_threshold=0.5)


def _shapes() -> Iterator[Case]:
    yield _case("shapes", "holes", pierced(30, (144, 192), range(12)))
    yield _case("shapes", "holes, painted", pierced(30, (144, 192), range(12)), "painted")
    yield _case("shapes", "larger than a window", nuclei(31, (176, 192), [(80, 90)], (50, 54), 0.05), "painted")
    touching = nuclei(32, (176, 192), [(50, 50), (120, 130)], (30, 34), 0.05)
    yield _case("shapes", "touching a window", touching, "painted")
    yield _case("shapes", "many seeds, one nucleus", _many_seeds((176, 192)), "painted")
    yield _case("shapes", "snake", snake((128, 144)), "painted")
    yield _case("shapes", "crowd", nuclei(33, (144, 160), scattered(33, (144, 160), 120), (5, 12)))
    yield _case("shapes", "rough", nuclei(34, (144, 160), scattered(34, (144, 160), 60), (4, 16), 1.5))


def _many_seeds(size: tuple[int, int]) -> np.ndarray:
    logits = nuclei(35, size, [(88, 96)], (56, 58), 0.0)
    for y, x in scattered(35, (70, 70), 25):
        logits[4, 53 + y, 61 + x] = 7
    return logits


def _thresholds() -> Iterator[Case]:
    size = (96, 128)
    image = nuclei(40, size, scattered(40, size, 50), (5, 11), 0.8)
    for k, settings in enumerate(
        (
            {"seed_threshold": 0.1}, {"seed_threshold": 0.7}, {"seed_threshold": 0.79}, {"peak_distance": 1},
            {"peak_distance": 3}, {"peak_distance": 9}, {"mask_threshold": 0.3}, {"mask_threshold": 0.5},
            {"mask_threshold": 0.9}, {"overlap_threshold": 0.05}, {"overlap_threshold": 0.8}, {"window": 12},
            {"window": 20}, {"window": 48}, {"window": 64},
        )
    ):  # fmt: skip
        said = ", ".join(f"{name} {value}" for name, value in settings.items())
        yield _case("thresholds", said, image, "first" if k % 3 else "diamonds and sigma", **settings)


def _fields() -> Iterator[Case]:
    for k, (blur, spread) in enumerate(((2, 0.3), (3, 1.0), (5, 1.0), (5, 3.0), (9, 0.5), (16, 2.0))):
        yield _case("fields", f"blur {blur}, spread {spread}", noise(50 + k, (128, 144), blur, spread))
    for k in range(6):
        yield _case("random networks", f"classifier {k}", noise(60 + k, (112, 128), 3 + k, 1.0), f"random {k}")
