"""`microtome model list` and `check`, on the shipped model and on copies with something wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import onnx
import pytest

from microtome.commandline.main import main
from microtome.errors import UnknownModel
from microtome.models.catalogue import entries
from microtome.models.checking import check_model
from microtome.segmentation.model import load_model, models_folder, preferred_model, shipped_models


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.setenv("MICROTOME_MODELS", str(folder))
    return folder


@pytest.fixture
def mine(models: Path) -> Path:
    return Path(shutil.copytree(shipped_models()["embedded"], models / "mine"))


def change(folder: Path, how: Callable[[dict[str, Any]], object]) -> None:
    facts = json.loads((folder / "model.json").read_text())
    how(facts)
    (folder / "model.json").write_text(json.dumps(facts))


def outcomes(name: str) -> dict[str, str]:
    return {finding.what: finding.outcome for finding in check_model(name)}


def test_an_imported_model_is_loaded_by_name(mine: Path) -> None:
    assert load_model("mine").network == mine / "model.onnx"
    assert load_model("mine").digest == load_model("embedded").digest


def test_the_official_model_is_used_where_it_was_imported(models: Path) -> None:
    assert preferred_model() == "embedded"
    shutil.copytree(shipped_models()["embedded"], models / "brightfield_nuclei")
    assert preferred_model() == "brightfield_nuclei"


def test_a_shipped_model_is_never_hidden(models: Path) -> None:
    shutil.copytree(shipped_models()["embedded"], models / "embedded")
    change(models / "embedded", lambda facts: facts["head"].update(seed_threshold=0.9))
    assert load_model("embedded").seed_threshold != 0.9


def test_unfinished_folders_are_no_models(models: Path) -> None:
    (models / ".importing-x1").mkdir()
    assert [entry.name for entry in entries() if entry.origin == "imported"] == []
    with pytest.raises(UnknownModel, match="microtome model import"):
        load_model(".importing-x1")


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"MICROTOME_MODELS": "/srv/models"}, "/srv/models"),
        ({"XDG_DATA_HOME": "/data"}, "/data/microtome/models"),
        ({}, str(Path("~/.local/share/microtome/models").expanduser())),
    ],
)
def test_where_imported_models_lie(environment: dict[str, str], folder: str) -> None:
    assert models_folder(environment) == Path(folder)


def test_list_names_all_with_their_numbers(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (mine.parent / "broken").mkdir()
    (mine / "about.json").write_text(json.dumps({"licence": "CC0-1.0", "objects": "cells"}))
    assert main(["--json", "model", "list"]) == 0
    listed = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    model = load_model("embedded")
    assert listed["embedded"]["digest"] == model.digest
    assert (listed["embedded"]["origin"], listed["mine"]["origin"]) == ("shipped", "imported")
    assert (listed["mine"]["licence"], listed["mine"]["objects"]) == ("CC0-1.0", "cells")
    assert listed["mine"]["bytes"] == sum((mine / name).stat().st_size for name in ("model.onnx", "model.json"))
    assert listed["broken"]["problem"]
    assert main(["model", "list"]) == 0
    table = capsys.readouterr().out
    assert model.digest[:12] in table
    assert "cannot be loaded" in table


def test_the_shipped_model_is_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json", "model", "check", "embedded"]) == 0
    found = {finding["what"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert all(found[what]["outcome"] == "ok" for what in ("files", "network", "halo", "cells"))
    assert found["parity"]["outcome"] in {"ok", "not checked"}


def test_a_halo_that_is_too_small_and_a_head_that_finds_nothing(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(mine, lambda facts: facts.update(halo_min=64))
    change(mine, lambda facts: facts["head"].update(seed_threshold=50.0))
    assert main(["--json", "model", "check", "mine"]) == 1
    found = {finding["what"]: finding["outcome"] for finding in json.loads(capsys.readouterr().out)}
    assert (found["network"], found["halo"], found["cells"]) == ("ok", "failed", "failed")


def test_files_that_do_not_belong_together_are_found(mine: Path) -> None:
    (mine / "about.json").write_text(json.dumps({"digest": "0" * 64}))
    first_two = dict(islice(((finding.what, finding.outcome) for finding in check_model("mine")), 2))
    assert first_two == {"files": "ok", "about": "failed"}
    with (mine / "model.onnx").open("ab") as file:
        file.write(b"\0")
    assert main(["model", "check", "mine"]) == 1


def test_a_network_that_gives_no_numbers_is_found(mine: Path) -> None:
    network = onnx.load(mine / "model.onnx")
    bias = next(
        constant for constant in network.graph.initializer if len(constant.dims) == 1 and constant.data_type == 1
    )
    bias.raw_data = b"\x00\x00\xc0\x7f" * bias.dims[0]
    _put(mine, network.SerializeToString())
    findings = islice(check_model("mine"), 2)
    assert {finding.what: finding.outcome for finding in findings} == {"files": "ok", "network": "failed"}


def test_what_is_no_network_is_found(mine: Path) -> None:
    _put(mine, b"no network")
    assert outcomes("mine") == {"files": "ok", "network": "failed"}


def _put(folder: Path, network: bytes) -> None:
    import hashlib

    (folder / "model.onnx").write_bytes(network)
    change(folder, lambda facts: facts["sha256"].update({"model.onnx": hashlib.sha256(network).hexdigest()}))
