"""The table of scores: models and the classical baseline on the images that nothing was learned or chosen on.

    python -m microtome.training.report --data FOLDER [MODEL …] [--groups tnbc07,tnbc08] [--pictures FOLDER]

Promises: every model goes through the engine and the head that users get, in fp32 on the CPU; thresholds are the
model's own. Prints a table, and as the last line one JSON object with the same numbers. `--pictures` writes what was
found (green: right, red: made up, blue: missed) for each image.
Refuses: to change a threshold.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from microtome.scoring import Scores, Tally, match
from microtome.segmentation.engine import Engine
from microtome.segmentation.engines import open_engine
from microtome.segmentation.model import Model, load_model
from microtome.training import classical, evaluation
from microtome.training.geometry import doubled
from microtome.training.labelled import REPORTED, Labelled, read_groups

# Label image at 0.25 µm per pixel of one labelled image.
Method = Callable[[Labelled], NDArray[np.int32]]
_RIGHT, _MADE_UP, _MISSED = (40, 200, 40), (40, 40, 230), (230, 120, 20)  # blue, green, red


def by_model(model: Model, engine: Engine) -> Method:
    """What the model finds on this engine."""

    def network(pixels: NDArray[np.uint8], low: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = engine.infer(pixels[None], low[None], scale[None])[0]
        return logits

    return lambda image: evaluation.found_in(evaluation.logits_of(network, image, model.percentiles), model)


def by_classical(image: Labelled) -> NDArray[np.int32]:
    """What stain deconvolution, threshold and watershed find."""
    height, width = image.labels.shape
    half = cv2.resize(image.pixels, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    return doubled(classical.segment(np.asarray(half, np.uint8)))


def scored(images: Iterable[Labelled], method: Method) -> Scores:
    """Scores of a method over all images together."""
    total = Tally.empty()
    for image in images:
        total += Tally.of(image.labels, method(image))
    return total.scores


def drawn(image: Labelled, found: NDArray[np.int32]) -> NDArray[np.uint8]:
    """The image in blue, green, red with the outlines of what is right, made up and missed: uint8 [h, w, 3]."""
    matching = match(image.labels, found)
    canvas = np.ascontiguousarray(image.pixels[:, :, ::-1])
    for labels, chosen, colour in (
        (image.labels, matching.only_a, _MISSED),
        (found, matching.only_b, _MADE_UP),
        (found, matching.pairs[:, 1], _RIGHT),
    ):
        for label in chosen:
            mask = (labels == label).astype(np.uint8)
            outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(canvas, outlines, -1, colour, 1)
    return canvas


def table(rows: dict[str, Scores]) -> str:
    """Markdown."""
    head = "| | F1@0.5 | F1@0.5–0.9 | SQ | PQ | AJI | found for true |\n|---|---|---|---|---|---|---|"
    lines = [
        f"| {name} | {row.f1_50:.3f} | {row.f1_50_90:.3f} | {row.sq:.3f} | {row.pq:.3f} | {row.aji:.3f} "
        f"| {row.found} for {row.truth} |"
        for name, row in rows.items()
    ]
    return "\n".join([head, *lines])


def _main() -> None:
    parser = argparse.ArgumentParser(description="Score models on labelled images.")
    parser.add_argument("models", nargs="*", default=["embedded"], help="names or folders of models")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/labelled"))
    parser.add_argument("--groups", default=",".join(sorted(REPORTED)))
    parser.add_argument("--pictures", type=Path, help="folder for pictures of the first model's cells")
    parser.add_argument("--engine", default="onnxruntime-cpu-fp32")
    given = parser.parse_args()
    images = read_groups(given.data, given.groups.split(","))
    rows: dict[str, Scores] = {}
    for place, name in enumerate(given.models):
        model = load_model(name)
        method = by_model(model, open_engine(model, given.engine))
        rows[f"{name} ({model.name})"] = scored(images, method)
        if given.pictures and place == 0:
            given.pictures.mkdir(parents=True, exist_ok=True)
            for image in images:
                cv2.imwrite(str(given.pictures / image.name), drawn(image, method(image)))
    rows["classical"] = scored(images, by_classical)
    print(table(rows))
    print(json.dumps({"groups": given.groups} | {name: dataclasses.asdict(row) for name, row in rows.items()}))


if __name__ == "__main__":
    _main()
