"""Publishing is one step; pictures and the summary are read back by others."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from microtome.artifacts.outlines import outlines
from microtome.artifacts.preview import Preview, reduced, save_jpeg
from microtome.artifacts.store import ArtifactStore, Readers
from microtome.artifacts.summary import Summary
from microtome.errors import NotFound, StaleAttempt
from tests.unit.artifacts.cells_on_slide import KEY, discs, tile_of

ROOT = Path(__file__).parents[3]


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts")


def test_published_files_are_described_and_found(store: ArtifactStore) -> None:
    with store.draft("job", 1) as draft:
        (draft / "b.json").write_bytes(b"{}")
        (draft / "a.parquet").write_bytes(b"PAR1")
        stored = store.publish(draft, "job", 1)
    assert [(a.name, a.media_type, a.size_bytes) for a in stored] == [
        ("a.parquet", "application/vnd.apache.parquet", 4),
        ("b.json", "application/json", 2),
    ]
    for artifact in stored:
        content = store.path("job", 1, artifact.name).read_bytes()
        assert artifact.sha256 == hashlib.sha256(content).hexdigest()


def test_files_that_are_read_as_soon_as_they_are_whole_are_described_as_others(store: ArtifactStore) -> None:
    names = [f"{number}.json" for number in range(9)]
    with store.draft("job", 1) as draft, Readers() as readers:
        for number, name in enumerate(names):
            (draft / name).write_bytes(bytes(number))
            if number % 2:
                readers.begin(draft / name)
        stored = store.publish(draft, "job", 1, readers=readers)
    with store.draft("job", 2) as draft:
        for number, name in enumerate(names):
            (draft / name).write_bytes(bytes(number))
        assert stored == store.publish(draft, "job", 2)


def test_whoever_must_not_go_on_publishes_nothing(store: ArtifactStore) -> None:
    def stop() -> None:
        raise StaleAttempt

    with store.draft("job", 1) as draft, Readers(stop) as readers:
        (draft / "a").write_bytes(b"1")
        readers.begin(draft / "a")
        with pytest.raises(StaleAttempt):
            store.publish(draft, "job", 1, readers=readers)
    assert store.attempts("job") == ()


@pytest.mark.parametrize("name", ["missing", "", ".", "..", "../1/a", "/etc/passwd", "a\0", "sub/a"])
def test_other_names_lead_nowhere(store: ArtifactStore, name: str) -> None:
    with store.draft("job", 1) as draft:
        (draft / "a").write_bytes(b"1")
        store.publish(draft, "job", 1)
    with pytest.raises(NotFound):
        store.path("job", 1, name)


def test_a_draft_that_fails_leaves_nothing(store: ArtifactStore, tmp_path: Path) -> None:
    def fail() -> None:
        with store.draft("job", 1) as draft:
            (draft / "a").write_bytes(b"1")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not list((tmp_path / "artifacts" / "job").iterdir())
    with pytest.raises(NotFound):
        store.path("job", 1, "a")


def test_publishing_an_attempt_again_replaces_all_of_it(store: ArtifactStore, tmp_path: Path) -> None:
    for content in ({"a": b"old", "gone": b"old"}, {"a": b"new"}):
        with store.draft("job", 1) as draft:
            for name, data in content.items():
                (draft / name).write_bytes(data)
            store.publish(draft, "job", 1)
    assert store.path("job", 1, "a").read_bytes() == b"new"
    with pytest.raises(NotFound):
        store.path("job", 1, "gone")
    assert [folder.name for folder in (tmp_path / "artifacts" / "job").iterdir()] == ["1"]


KILLED = """
import os, signal, sys
from pathlib import Path
from microtome.artifacts import store
artifacts = store.ArtifactStore(Path(sys.argv[1]))
sync = store._sync
def killed_before_the_rename(folder):
    sync(folder)
    os.kill(os.getpid(), signal.SIGKILL)
with artifacts.draft("job", 1) as draft:
    (draft / "a").write_bytes(b"whole")
    store._sync = killed_before_the_rename
    artifacts.publish(draft, "job", 1)
"""


def test_a_writer_that_is_killed_shows_nothing_and_is_swept_up(store: ArtifactStore, tmp_path: Path) -> None:
    root = tmp_path / "artifacts"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "libs")}
    killed = subprocess.run([sys.executable, "-c", KILLED, str(root)], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    with pytest.raises(NotFound):
        store.path("job", 1, "a")
    assert len(list((root / "job").iterdir())) == 1
    store.sweep("job", 2)
    assert not list((root / "job").iterdir())


def test_a_sweep_leaves_what_this_attempt_published_and_nothing_earlier(store: ArtifactStore) -> None:
    for attempt in (1, 2):
        with store.draft("job", attempt) as draft:
            (draft / "a-b").write_bytes(b"1")
            store.publish(draft, "job", attempt)
    store.sweep("job", 2)
    assert store.attempts("job") == (2,)
    assert store.path("job", 2, "a-b").exists()
    assert list(store.jobs()) == ["job"]


def test_a_writer_that_wakes_up_late_leaves_its_successor_alone(store: ArtifactStore, tmp_path: Path) -> None:
    old = tmp_path / "artifacts" / "job" / ".draft-0123abcd"  # as they were called once
    old.mkdir(parents=True)
    with store.draft("job", 1), store.draft("job", 10) as later:
        (later / "a").write_bytes(b"1")
        assert store.sweep("job", 2) == 2
        assert [path.name for path in (tmp_path / "artifacts" / "job").iterdir()] == [later.name]
        store.publish(later, "job", 10)
    assert store.path("job", 10, "a").exists()


def test_cells_and_tissue_are_drawn_where_they_are(tmp_path: Path) -> None:
    plain = np.full((128, 128, 3), 250, np.uint8)
    preview = Preview(plain, slide_width=512)
    mask = np.zeros((32, 32), np.bool_)
    mask[4:28, 4:28] = True
    preview.tissue(mask)
    labels = discs()
    preview.cells(outlines(tile_of(labels), 2.0, KEY))
    preview.save(tmp_path / "overlay.jpg")
    with Image.open(tmp_path / "overlay.jpg") as opened:
        picture = np.asarray(opened.convert("RGB")).astype(int)
    assert picture.shape == (128, 128, 3)
    assert (plain == 250).all()
    blue = (picture[..., 2] - picture[..., 0]) > 60
    # The slide is four times the picture's size, the labels half the slide's.
    near_cell = np.zeros((128, 128), np.bool_)
    rows, columns = np.nonzero(labels)
    for down in (-2, -1, 0, 1, 2):
        for across in (-2, -1, 0, 1, 2):
            near_cell[np.clip(rows // 2 + down, 0, 127), np.clip(columns // 2 + across, 0, 127)] = True
    assert blue.sum() > 200
    assert not (blue & ~near_cell).any()


def test_a_preview_without_cells_is_the_thumbnail(tmp_path: Path) -> None:
    preview = Preview(np.full((20, 30, 3), 200, np.uint8), 300)
    preview.cells(outlines(tile_of(np.zeros((8, 8), np.int32)), 2.0, KEY))
    preview.tissue(np.zeros((5, 5), np.bool_))
    preview.save(tmp_path / "overlay.jpg")
    with Image.open(tmp_path / "overlay.jpg") as opened:
        assert opened.size == (30, 20)
        assert np.abs(np.asarray(opened).astype(int) - 200).max() <= 1


def test_pictures_are_reduced_and_never_enlarged(tmp_path: Path) -> None:
    wide = np.zeros((100, 400, 3), np.uint8)
    wide[:, 200:] = 255
    small = reduced(wide, 40)
    assert small.shape == (10, 40, 3)
    assert small[:, :19].max() == 0
    assert small[:, 21:].min() == 255
    assert reduced(wide, 400) is wide
    assert reduced(np.zeros((1, 5000, 3), np.uint8), 64).shape == (1, 64, 3)
    save_jpeg(wide, tmp_path / "wide.jpg")
    with Image.open(io.BytesIO((tmp_path / "wide.jpg").read_bytes())) as opened:
        assert (opened.format, opened.mode, opened.size) == ("JPEG", "RGB", (400, 100))


def test_a_summary_says_everything_even_what_is_unknown(tmp_path: Path) -> None:
    summary = Summary(
        job_type="SEGMENT_CELLS",
        slide_id="s",
        slide_sha256="0" * 64,
        width=10,
        height=20,
        mpp=None,
        mpp_source="unknown",
        tissue_mm2=None,
        tissue_fraction=0.5,
        stage_seconds={"merge": 0.25},
        notes=("µm are unknown",),
    )
    summary.save(tmp_path / "summary.json")
    read = json.loads((tmp_path / "summary.json").read_text())
    assert set(read) == set(Summary.__dataclass_fields__)
    assert read["mpp"] is None
    assert read["notes"] == ["µm are unknown"]
    assert read["stage_seconds"] == {"merge": 0.25}
    assert "level-0" in read["coordinates"]
