"""What cannot be imported is refused with the reason, before anything of it is run."""

from __future__ import annotations

import hashlib
import json
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from microtome.commandline.main import main
from microtome.errors import Conflict
from microtome.models import archive
from microtome.models.archive import opened
from microtome.models.description import Facts
from microtome.models.importing import Wishes, import_model
from microtome.models.rdf import read_rdf
from microtome.models.refusals import ImportNeedsMore, ModelRefused
from microtome.models.sources import read_source
from tests.unit.models.conftest import random_weights, structure

FACTS: dict[str, Any] = {
    "name": "mine",
    "pixel_size_um": 0.5,
    "coordinate_step": 0.25,
    "window_size": 32,
    "peak_distance": 5,
    "seed_threshold": 0.4,
    "mask_threshold": 0.53,
    "overlap_threshold": 0.3,
    "min_size_px": 10,
    "licence": "CC0-1.0",
}


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A folder as this project's own training leaves it."""
    save_file(random_weights(structure()), tmp_path / "mine.safetensors")
    (tmp_path / "model.json").write_text(json.dumps(FACTS))
    return tmp_path


def test_a_training_of_this_project(trained: Path) -> None:
    source = read_source(trained)
    assert source.sha256 == read_source(trained / "mine.safetensors").sha256
    assert (source.kind, source.facts.name, source.facts.mpp, source.facts.licence) == (
        "safetensors",
        "mine",
        0.5,
        "CC0-1.0",
    )
    assert source.own_network is None
    assert len(source.state) == len(random_weights(structure()))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda folder: (folder / "model.json").unlink(), "must be a model.json"),
        (lambda folder: (folder / "model.json").write_text("{"), "does not describe"),
        (lambda folder: (folder / "model.json").write_text("[]"), "does not describe"),
        (
            lambda folder: (folder / "model.json").write_text(json.dumps(FACTS | {"window_size": "wide"})),
            "does not describe",
        ),
        (
            lambda folder: (folder / "model.json").write_text(
                json.dumps(FACTS | {"sha256": {"mine.safetensors": "0"}})
            ),
            "not the file that its model.json describes",
        ),
        (
            lambda folder: (folder / "model.json").write_text(
                json.dumps(FACTS | {"normalisation": {"clamp": [-1, 1]}})
            ),
            "clamped to",
        ),
        (lambda folder: (folder / "mine.safetensors").write_bytes(b"no tensors at all"), "damaged"),
        (lambda folder: (folder / "mine.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + b"{}"), "damaged"),
        (lambda folder: (folder / "other.safetensors").write_bytes(b""), "not exactly one .safetensors"),
    ],
)
def test_a_training_with_something_wrong(trained: Path, change: Callable[[Path], object], why: str) -> None:
    change(trained)
    with pytest.raises(ModelRefused, match=why):
        read_source(trained)


def test_what_is_not_there_names_no_official_model_either(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="no official model"):
        read_source(tmp_path / "brightfield")


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


@pytest.mark.parametrize("name", ["../escaped.pt", "/absolute.pt", "a/../../b.pt", "..\\windows.pt", "C:\\windows.pt"])
def test_members_that_would_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    path = zipped(tmp_path / "slip.zip", {name: b"x", "rdf.yaml": b"name: x"})
    with pytest.raises(ModelRefused, match="leave its folder"):
        read_source(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["slip.zip"]


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ({"readme.txt": b"hello"}, "has 0 .pt files"),
        ({"a.pt": b"x", "b.pt": b"y"}, "has 2 .pt files"),
        ({}, "holds nothing"),
    ],
)
def test_zips_of_something_else_are_refused(tmp_path: Path, members: dict[str, bytes], why: str) -> None:
    with pytest.raises(ModelRefused, match=why):
        read_source(zipped(tmp_path / "other.zip", members))


def test_a_damaged_member_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "model.zip", {"model.pt": bytes(range(256)) * 40})
    content = bytearray(path.read_bytes())
    content[60:64] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    with pytest.raises(ModelRefused, match="damaged"), opened(path) as zipfile_:
        zipfile_.extracted("model.pt")


def test_a_truncated_zip_is_no_model(tmp_path: Path, no_torch: None) -> None:
    path = zipped(tmp_path / "model.zip", {"model.pt": bytes(100_000)})
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises((ModelRefused, ImportNeedsMore)):
        read_source(path)


def test_a_member_that_never_ends_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_BYTES", 1 << 20)
    path = zipped(tmp_path / "bomb.zip", {"model.pt": bytes(3 << 20)})
    assert path.stat().st_size < 10_000
    with pytest.raises(ModelRefused, match="larger"), opened(path) as zipfile_:
        zipfile_.extracted("model.pt")


def test_what_is_extracted_goes_away(tmp_path: Path) -> None:
    with opened(zipped(tmp_path / "model.zip", {"deep/inside/model.pt": b"content"})) as zipfile_:
        inner = zipfile_.extracted("deep/inside/model.pt")
        assert inner.read_bytes() == b"content"
        assert inner.name == "model.pt"
    assert not inner.exists()


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)


@pytest.mark.usefixtures("no_torch")
def test_without_torch_it_says_how_to_get_it(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ImportNeedsMore, match="make setup-models"):
        import_model(str(trained), Wishes(), print, tmp_path / "models")
    (tmp_path / "model_weights.pth").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(ImportNeedsMore, match="make setup-models"):
        read_source(tmp_path / "model_weights.pth")
    assert not (tmp_path / "models").exists()


@pytest.mark.usefixtures("no_torch")
def test_a_file_that_is_not_the_expected_one_is_refused_before_anything_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MICROTOME_MODELS", str(tmp_path / "models"))
    file = tmp_path / "model.pt"
    file.write_bytes(b"a program")
    right = hashlib.sha256(b"a program").hexdigest()
    assert main(["model", "import", str(file), "--sha256", "0" * 64]) == 1
    assert f"sha256 {right}" in " ".join(capsys.readouterr().err.split())
    # The expected one comes as far as torch, which is not here.
    assert main(["model", "import", str(file), "--sha256", right.upper()]) == 1
    assert "make setup-models" in capsys.readouterr().err
    assert main(["model", "import", str(tmp_path), "--sha256", right]) == 1
    assert "not a file" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(SystemExit):
        main(["model", "import", str(file), "--sha256", right[:-1]])
    assert "64 hexadecimal digits" in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("facts", "error"),
    [
        (Facts("m"), ImportNeedsMore),
        (Facts("m", mpp=float("nan")), ImportNeedsMore),
        (Facts("m", mpp=1e6), ModelRefused),
        (Facts("m", mpp=0.5, mask_threshold=1.0), ModelRefused),
        (Facts("m", mpp=0.5, seed_threshold=float("inf")), ModelRefused),
        (Facts("m", mpp=0.5, percentiles=(99.0, 1.0)), ModelRefused),
        (Facts("m", mpp=0.5, window=0), ModelRefused),
    ],
)
def test_numbers_that_cannot_be_are_refused(facts: Facts, error: type[Exception]) -> None:
    with pytest.raises(error):
        facts.checked()


RDF = """
name: brightfield_nuclei
version: 0.1.1
license: Apache-2.0
inputs:
  - axes:
      - {type: batch}
      - {id: channel, channel_names: [C0, C1, C2]}
      - {id: y, scale: 0.5, unit: micrometer}
      - {id: x, scale: 0.5, unit: micrometer}
    preprocessing:
      - {id: scale_range, kwargs: {min_percentile: 0.1, max_percentile: 99.9, axes: [x, y]}}
"""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            RDF,
            {
                "name": "brightfield_nuclei",
                "version": "0.1.1",
                "licence": "Apache-2.0",
                "mpp": 0.5,
                "percentiles": (0.1, 99.9),
            },
        ),
        ("name: x\ninputs:\n  - axes: bcyx\n", {"name": "x"}),
        ("name: x\ninputs:\n  - axes: [{id: x, scale: 1.0}]\n", {"name": "x"}),
        ("name: [x]\ninputs: 5\n", {}),
    ],
)
def test_a_description_is_read_for_what_it_has(tmp_path: Path, text: str, found: dict[str, Any]) -> None:
    (tmp_path / "rdf.yaml").write_text(text)
    assert read_rdf(tmp_path / "rdf.yaml") == found


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [", "!!python/object/apply:os.getcwd []"])
def test_a_description_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "rdf.yaml").write_text(text)
    with pytest.raises(ModelRefused):
        read_rdf(tmp_path / "rdf.yaml")


class _Torch:
    """Enough of torch to come as far as the name, which is decided before anything is computed."""

    def set_num_threads(self, count: int) -> None:
        assert count == 1


@pytest.mark.parametrize(("name", "why"), [("embedded", "comes with Microtome"), ("there", "--replace")])
def test_names_that_are_taken(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, why: str
) -> None:
    monkeypatch.setitem(sys.modules, "torch", _Torch())  # type: ignore[arg-type]
    (tmp_path / "models" / "there").mkdir(parents=True)
    with pytest.raises(Conflict, match=why):
        import_model(str(trained), Wishes(name=name), print, tmp_path / "models")
    with pytest.raises(ImportNeedsMore, match="cannot be a model's name"):
        import_model(str(trained), Wishes(name="../up"), print, tmp_path / "models")


def test_floats_of_half_precision_are_weights_too(tmp_path: Path) -> None:
    halves = {name: value.astype(np.float16) for name, value in random_weights(structure()).items()}
    save_file(halves, tmp_path / "mine.safetensors")
    (tmp_path / "model.json").write_text(json.dumps(FACTS))
    assert len(read_source(tmp_path).state) == len(halves)
