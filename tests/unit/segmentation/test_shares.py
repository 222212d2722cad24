"""Threads share the objects of a tile, and nothing of what is found depends on them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from microtome.segmentation.cells import segment_tile
from microtome.segmentation.engine import OnnxRuntimeEngine
from microtome.segmentation.grid import Grid
from microtome.segmentation.model import Model
from microtome.segmentation.shares import in_shares
from microtome.slides.opening import open_slide, read_block
from microtome.slides.synthetic import write_synthetic_slide

SIZE = 640


@pytest.mark.parametrize(
    ("count", "threads", "few"), [(0, 4, 1), (1, 4, 1), (7, 3, 1), (7, 9, 1), (7, 3, 4), (9, 3, 4)]
)
def test_every_object_is_in_one_part_and_parts_come_in_order(count: int, threads: int, few: int) -> None:
    parts = in_shares(lambda start, stop: list(range(start, stop)), count, threads, few)
    assert [each for part in parts for each in part] == list(range(count))
    assert len(parts) == max(1, min(threads, count // few))


def test_what_a_part_raises_is_raised() -> None:
    def fail(start: int, _stop: int) -> None:
        if start:
            raise LookupError(f"from {start}")

    with pytest.raises(LookupError, match="from 5"):
        in_shares(fail, 10, 2, 1)


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_a_tile_has_the_same_cells_whatever_the_number_of_threads(
    tmp_path_factory: pytest.TempPathFactory, model: Model, engine: OnnxRuntimeEngine, threads: int
) -> None:
    path = tmp_path_factory.mktemp("slide") / "slide.tif"
    write_synthetic_slide(path, size=SIZE, seed=11)
    with open_slide(path) as slide:
        pixels = read_block(slide, 0, 0, 0, SIZE, SIZE)
    logits = engine.infer(pixels[None], np.zeros((1, 3), np.float32), np.full((1, 3), 1 / 255, np.float32))[0]
    (tile,) = Grid(SIZE, SIZE, SIZE, model.halo).tiles()
    one, many = (segment_tile(logits, tile, model, pixels, threads=each) for each in (1, threads))
    assert len(one) > 128, "so few are not shared out"
    for field in dataclasses.fields(one):
        mine, other = getattr(one, field.name), getattr(many, field.name)
        if isinstance(mine, np.ndarray):
            assert (mine.dtype, mine.shape, mine.tobytes()) == (other.dtype, other.shape, other.tobytes()), field.name
        elif field.name != "seconds":
            assert mine == other
