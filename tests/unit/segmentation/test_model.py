"""A model is whole or refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from microtome.errors import ModelMismatch, UnknownModel
from microtome.segmentation.model import Model, load_model, model_digest


@pytest.fixture
def folder(model: Model, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model.network.parent, tmp_path / "mine"))


def change(folder: Path, how: Callable[[dict[str, Any]], object]) -> None:
    facts = json.loads((folder / "model.json").read_text())
    how(facts)
    (folder / "model.json").write_text(json.dumps(facts))


def test_a_copy_is_the_same_model(model: Model, folder: Path) -> None:
    assert load_model(folder).digest == load_model(str(folder)).digest == model.digest


def test_the_digest_covers_network_and_description(model: Model, folder: Path) -> None:
    facts = json.loads((folder / "model.json").read_text())
    network = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    assert model_digest(network, facts) == model.digest
    change(folder, lambda facts: facts["head"].update(seed_threshold=0.5))
    assert load_model(folder).digest != model.digest


def test_another_network_is_refused(folder: Path) -> None:
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ModelMismatch, match="not the file"):
        load_model(folder)


@pytest.mark.parametrize(
    "how",
    [
        lambda facts: facts.update(format=2),
        lambda facts: facts.pop("halo_min"),
        lambda facts: facts["head"].pop("window"),
        lambda facts: facts["head"].update(mask_threshold=1.0),
        lambda facts: facts["head"].update(coordinate_step="wide"),
        lambda facts: facts["normalisation"].update(percentiles=[99.9, 0.1]),
        lambda facts: facts["pixel_classifier"].pop(),
        lambda facts: facts["pixel_classifier"][1].update(bias=[0.0]),
        lambda facts: facts.update(mpp=0),
    ],
)
def test_an_incomplete_description_is_refused(folder: Path, how: Callable[[dict[str, Any]], object]) -> None:
    change(folder, how)
    with pytest.raises(ModelMismatch):
        load_model(folder)


def test_what_is_not_json_is_refused(folder: Path) -> None:
    (folder / "model.json").write_text("{")
    with pytest.raises(ModelMismatch):
        load_model(folder)


@pytest.mark.parametrize("name", ["no-such-model", "/no/such/folder", "../models", ""])
def test_unknown_names_say_what_there_is(name: str) -> None:
    with pytest.raises(UnknownModel, match="embedded"):
        load_model(name)
