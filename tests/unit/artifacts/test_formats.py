"""Which files of cells are chosen, and that a wrong choice is told at the start."""

from __future__ import annotations

from pathlib import Path

import pytest

from microtome.artifacts.files import CellFiles
from microtome.artifacts.formats import CELL_FORMATS, EVERY_JOBS, formats_named
from microtome.artifacts.outlines import outlines
from microtome.errors import ConfigurationError, InvalidRequest
from microtome.segmentation.stains import HE
from services.merger.settings import MergerSettings
from tests.unit.artifacts.cells_on_slide import KEY, discs, tile_of


def test_a_choice_has_one_order_and_each_format_once() -> None:
    assert formats_named(" csv,Parquet,csv,") == ("parquet", "csv")
    assert formats_named(",".join(CELL_FORMATS)) == CELL_FORMATS
    assert set(EVERY_JOBS) == {"parquet", "geojson", "csv"}


@pytest.mark.parametrize(("text", "said"), [("parquet,shp", "no format shp"), ("csv", "parquet"), ("", "parquet")])
def test_a_wrong_choice_is_told(text: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=said):
        formats_named(text)
    monkeypatch.setenv("MICROTOME_DATABASE_URL", "postgresql://nowhere")
    monkeypatch.setenv("MICROTOME_NATS_URL", "nats://nowhere")
    monkeypatch.setenv("MICROTOME_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("TILE_STORE_DIR", str(tmp_path))
    monkeypatch.setenv("FORMATS", "fgb, parquet")
    assert MergerSettings.from_environment().formats == "parquet,fgb"
    monkeypatch.setenv("FORMATS", text)
    with pytest.raises(ConfigurationError, match=f"FORMATS: .*{said}"):
        MergerSettings.from_environment()


@pytest.mark.parametrize("formats", [("parquet",), EVERY_JOBS, CELL_FORMATS])
def test_what_is_chosen_is_written_and_nothing_else(formats: tuple[str, ...], tmp_path: Path) -> None:
    with CellFiles(tmp_path, 0.5, HE, {}, formats=formats) as files:
        files.append(outlines(tile_of(discs(20)), 1.0, KEY, 0.5))
    assert {path.name for path in tmp_path.iterdir()} == {f"cells.{each}" for each in formats}
    assert files.seconds.keys() == {f"cells.{each}" for each in formats}
