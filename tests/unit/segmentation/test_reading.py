"""The plane beyond the slide is its mirror image, whoever looks."""

from __future__ import annotations

import numpy as np
import pytest

from microtome.errors import InvalidRequest
from microtome.segmentation.grid import Rect
from microtome.segmentation.reading import ArrayReader, mirrored, pad_reflect


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    ("height", "width", "margin"), [(40, 50, 16), (40, 50, 39), (9, 50, 30), (1, 1, 7), (2, 5, 20)]
)
def test_it_is_numpys_reflection(height: int, width: int, margin: int) -> None:
    image = picture(height, width)
    padded = pad_reflect(ArrayReader(image), Rect(-margin, -margin, width + 2 * margin, height + 2 * margin))
    assert (padded == np.pad(image, ((margin, margin), (margin, margin), (0, 0)), "reflect")).all()


def test_every_region_sees_the_same_plane() -> None:
    image = picture(37, 53)
    plane = pad_reflect(ArrayReader(image), Rect(-200, -200, 600, 600))
    rng = np.random.default_rng(0)
    for _ in range(50):
        x, y = (int(v) for v in rng.integers(-200, 300, 2))
        part = pad_reflect(ArrayReader(image), Rect(x, y, 64, 80))
        assert (part == plane[y + 200 : y + 280, x + 200 : x + 264]).all()


def test_only_what_lies_inside_is_read() -> None:
    with pytest.raises(InvalidRequest):
        ArrayReader(picture(10, 10)).read(5, 5, 6, 2)


def test_mirror_of_a_single_pixel() -> None:
    assert (mirrored(-3, 7, 1) == 0).all()
