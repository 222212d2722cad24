"""Who may be learned from."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

from microtome.errors import InvalidRequest, NotFound
from microtome.segmentation.model import load_model
from microtome.training import evaluation
from microtome.training.labelled import PATIENTS, REPORTED, Fold, Labelled, digest, read_groups


def _write(folder: Path, group: str, name: str, value: int) -> None:
    for part in ("images", "labels"):
        (folder / group / part).mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / group / "images" / name), np.full((8, 8, 3), (1, 2, value), np.uint8))
    labels = np.zeros((8, 8), np.uint16)
    labels[2:5, 2:5] = 300
    cv2.imwrite(str(folder / group / "labels" / name), labels)


@pytest.mark.parametrize("patient", [*sorted(REPORTED), "tnbc09", "tnbc11", "nuinsseg"])
def test_reported_and_unknown_patients_cannot_be_held_out(patient: str) -> None:
    with pytest.raises(InvalidRequest):
        Fold.holding_out(patient)


@pytest.mark.parametrize("group", ["tnbc07", "tnbc08", "tnbc09"])
def test_reported_patients_are_neither_learned_from_nor_chosen_on(group: str) -> None:
    with pytest.raises(InvalidRequest):
        Fold((group,), ())
    with pytest.raises(InvalidRequest):
        Fold(("tnbc01",), (group,))


def test_nothing_may_be_calibrated_on_a_reported_patient() -> None:
    image = Labelled("x", "tnbc07", np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32), np.int32), 0.25, False, "")
    logits = np.zeros((5, 16, 16), np.float32)
    with pytest.raises(InvalidRequest):
        evaluation.calibrate([(logits, image)], load_model("embedded"))
    evaluation.calibrate([(logits, dataclasses.replace(image, group="tnbc05"))], load_model("embedded"))


@pytest.mark.parametrize("patient", PATIENTS)
def test_a_fold_parts_all_patients(patient: str) -> None:
    fold = Fold.holding_out(patient)
    assert fold.choosing == (patient,)
    assert {*fold.learned, *fold.choosing} == {*PATIENTS, "nuinsseg", "dsb2018"}
    with pytest.raises(InvalidRequest):
        Fold((patient,), (patient,))


def test_reads_what_is_there_and_says_what_it_was(tmp_path: Path) -> None:
    _write(tmp_path, "tnbc", "01_1.png", 3)
    _write(tmp_path, "tnbc", "01_2.png", 4)
    _write(tmp_path, "tnbc", "07_1.png", 5)
    images = read_groups(tmp_path, ["tnbc01"])
    assert [image.name for image in images] == ["01_1.png", "01_2.png"]
    assert images[0].pixels[0, 0].tolist() == [3, 2, 1]
    assert images[0].labels.max() == 300
    assert digest(images) == digest(tuple(reversed(images)))
    before = digest(images)
    _write(tmp_path, "tnbc", "01_2.png", 9)
    assert digest(read_groups(tmp_path, ["tnbc01"])) != before
    with pytest.raises(NotFound):
        read_groups(tmp_path, ["tnbc02"])
    with pytest.raises(InvalidRequest):
        read_groups(tmp_path, ["monuseg"])
