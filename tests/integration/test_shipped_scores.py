"""The shipped model finds what its card says, on patients it never saw, through the engine and head that users get."""

from __future__ import annotations

from pathlib import Path

import pytest

from microtome.scoring import Scores
from microtome.segmentation.engine import OnnxRuntimeEngine
from microtome.segmentation.model import Model
from microtome.training.labelled import REPORTED, read_groups
from microtome.training.report import by_classical, by_model, scored

LABELLED = Path(__file__).parents[3] / "shared" / "data" / "labelled"
CARD = Path(__file__).parents[2] / "libs/microtome/segmentation/models/embedded/MODEL_CARD.md"


def on_card(name: str) -> list[float]:
    """F1 at 0.5, F1 at 0.5–0.9, SQ, PQ, AJI and how many were found, as the card has them."""
    rows = (line.replace("**", "").strip("| ").split("|") for line in CARD.read_text("utf-8").splitlines())
    (numbers,) = (cells[1:] for cells in rows if cells[0].strip() == name and len(cells) == 7)
    return [float(number.replace(",", "")) for number in numbers]


def numbers(row: Scores) -> list[float]:
    return [row.f1_50, row.f1_50_90, row.sq, row.pq, row.aji, row.found]


@pytest.mark.skipif(not LABELLED.is_dir(), reason="the labelled images are not at ../shared/data/labelled")
def test_the_card_says_what_the_model_scores(model: Model, engine: OnnxRuntimeEngine) -> None:
    images = read_groups(LABELLED, sorted(REPORTED))
    ours, classical = scored(images, by_model(model, engine)), scored(images, by_classical)
    # Another processor may round a nucleus to the other side of a threshold.
    assert numbers(ours) == pytest.approx(on_card("this model"), rel=0.005)
    assert numbers(classical) == pytest.approx(
        on_card("stain deconvolution, Otsu's threshold, distance watershed"), rel=0.005
    )
    assert ours.f1_50 > classical.f1_50 + 0.2
    assert ours.pq > classical.pq + 0.2
