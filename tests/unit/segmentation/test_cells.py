"""Files of cells: whole or absent, and read back without loss."""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from microtome.errors import InvalidRequest
from microtome.segmentation.cells import NoRoom, TileCells, read_cells, write_cells
from microtome.segmentation.grid import Rect
from microtome.segmentation.measuring import MEASUREMENTS
from microtome.segmentation.stains import HDAB


def cells(count: int) -> TileCells:
    rng = np.random.default_rng(count)
    lengths = rng.integers(3, 40, count)
    return TileCells(
        row=3,
        column=7,
        seed_y=np.sort(rng.integers(0, 10**6, count)).astype(np.int32),
        seed_x=rng.integers(0, 10**6, count).astype(np.int32),
        area_px=rng.integers(10, 500, count).astype(np.int32),
        score=rng.random(count).astype(np.float32),
        ring_offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
        ring_points=rng.integers(-5, 2 * 10**6, (int(lengths.sum()), 2)).astype(np.int32),
        measurements=rng.normal(size=(count, len(MEASUREMENTS))).astype(np.float32),
        seconds={"network": 0.25, "head": 0.125},
        stain=HDAB,
        regrown=count // 2,
        cut=count // 3,
        network_px=4096 * count,
        patches=tuple(Rect(16 * at, 0, 16, 32) for at in range(count % 7)),
    )


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_what_is_written_is_read(tmp_path: Path, count: int) -> None:
    path, written = tmp_path / "results" / "3-7.arrow", cells(count)
    write_cells(written, path)
    read = read_cells(path)
    assert (read.row, read.column, read.seconds, len(read)) == (3, 7, written.seconds, count)
    assert (read.stain, read.regrown, read.cut) == (HDAB, count // 2, count // 3)
    assert (read.network_px, read.patches) == (written.network_px, written.patches)
    for name in ("seed_y", "seed_x", "area_px", "score", "ring_offsets", "ring_points", "measurements"):
        before, after = getattr(written, name), getattr(read, name)
        assert before.dtype == after.dtype
        assert before.shape == after.shape
        assert (before == after).all()
    if count:
        assert (read.ring(count - 1) == written.ring(count - 1)).all()


def test_a_file_says_who_made_it_if_it_knows(tmp_path: Path) -> None:
    path, old = tmp_path / "0-0.arrow", tmp_path / "old.arrow"
    write_cells(cells(5).made("onnxruntime-cpu-fp32", "job/1"), path)
    read = read_cells(path)
    assert (read.engine, read.made_by) == ("onnxruntime-cpu-fp32", "job/1")
    # As files were before they said it.
    with pa.OSFile(str(path), "rb") as file:
        table = pa.ipc.open_file(file).read_all()
    metadata = {key: value for key, value in table.schema.metadata.items() if key not in (b"engine", b"made_by")}
    before = table.replace_schema_metadata(metadata)
    with pa.OSFile(str(old), "wb") as file, pa.ipc.new_file(file, before.schema) as writer:
        writer.write_table(before)
    read = read_cells(old)
    assert (len(read), read.engine, read.made_by) == (5, "", "")


def test_writing_again_replaces_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "0-0.arrow"
    write_cells(cells(5), path)
    write_cells(cells(9), path)
    assert len(read_cells(path)) == 9
    assert [entry.name for entry in tmp_path.iterdir()] == ["0-0.arrow"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "0-0.arrow"
    write_cells(cells(5), path)
    broken = cells(4)
    object.__setattr__(broken, "score", broken.score[:2])
    with pytest.raises(ValueError, match="same length"):
        write_cells(broken, path)
    assert len(read_cells(path)) == 5
    assert len(list(tmp_path.iterdir())) == 1


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.arrow"
    path.write_bytes(b"not arrow at all")
    with pytest.raises(InvalidRequest):
        read_cells(path)
    batch = pa.record_batch({"seed_y": pa.array([1], pa.int32())})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)
    with pytest.raises(InvalidRequest):
        read_cells(path)
    whole = tmp_path / "cut.arrow"
    write_cells(cells(50), whole)
    whole.write_bytes(whole.read_bytes()[:-40])
    with pytest.raises(InvalidRequest):
        read_cells(whole)


def test_a_full_disk_is_said_and_may_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "0-0.arrow"
    # The file is written aside first; this time that is a device that is always full.
    drawn = uuid.uuid4()
    monkeypatch.setattr(uuid, "uuid4", lambda: drawn)
    (tmp_path / f".0-0.arrow.{drawn.hex}").symlink_to("/dev/full")
    with pytest.raises(NoRoom, match="disk is full") as refused:
        write_cells(cells(1000), path)
    assert refused.value.transient
    assert not list(tmp_path.iterdir())
    write_cells(cells(1000), path)
    assert len(read_cells(path)) == 1000
