"""The command line as a user types it, against the live stack."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from microtome.slides.synthetic import write_synthetic_slide
from tests.acceptance.conftest import Live
from tests.conftest import PROJECT_ROOT


@dataclass(frozen=True)
class Said:
    """What a command printed, and its exit status."""

    status: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


class Typist:
    """Types commands as one user."""

    def __init__(self, url: str, user: str) -> None:
        self._environment = {**os.environ, "MICROTOME_URL": url, "MICROTOME_USER": user}
        self._environment["PYTHONPATH"] = os.pathsep.join((str(PROJECT_ROOT / "libs"), str(PROJECT_ROOT)))

    async def __call__(self, *arguments: object) -> Said:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "microtome", *map(str, arguments)),
            env=self._environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await child.communicate()
        assert child.returncode is not None
        assert b"Traceback" not in err, err.decode()
        return Said(child.returncode, out.decode(), err.decode())


@pytest.fixture
def typing(live: Live) -> Typist:
    return Typist(live.stack.url, live.user("typist").user)


async def test_from_a_file_to_its_results(live: Live, typing: Typist, tmp_path: Path) -> None:
    slide = tmp_path / "a slide.tif"
    await asyncio.to_thread(write_synthetic_slide, slide, size=400, seed=5)
    options = ["--tile-size", 320, "--halo", 96, "--name", "typed", "--policy", "skip"]
    done = await typing("--json", "submit", slide, *options, "--watch", "--download", tmp_path / "out")
    assert done.status == 0, done.err
    workflow = done.json
    assert (workflow["name"], workflow["status"]) == ("typed", "SUCCEEDED")
    assert workflow["branches"] == [{"name": "main", "policy": "skip"}]
    assert (tmp_path / "out" / "segment-cells" / "cells.geojson").stat().st_size > 1000
    assert (tmp_path / "out" / "tissue-mask" / "tissue_mask.png").is_file()

    listed, shown, logs = await asyncio.gather(
        typing("list"), typing("show", workflow["id"]), typing("logs", workflow["jobs"][1]["id"])
    )
    assert workflow["id"] in listed.out
    assert all(job["id"] in shown.out for job in workflow["jobs"])
    assert "succeeded" in logs.out
    fetched = await typing("download", workflow["jobs"][1]["id"], "--only", "summary.json", "--out", tmp_path)
    assert fetched.out.strip() == str(tmp_path / "summary.json")
    assert json.loads((tmp_path / "summary.json").read_text())["cells"] > 0
    zipped = await typing("download", workflow["jobs"][1]["id"], "--zip", "--out", tmp_path)
    assert zipped.status == 0
    assert (tmp_path / "segment-cells.zip").read_bytes()[:2] == b"PK"


async def test_a_draft_is_started_cancelled_and_retried(live: Live, typing: Typist, tmp_path: Path) -> None:
    slide = tmp_path / "slide.tif"
    await asyncio.to_thread(write_synthetic_slide, slide, size=300, seed=6)
    with live.paused("tiler"):
        draft = (await typing("--json", "submit", slide, "--type", "TISSUE_MASK", "--draft")).json
        (job,) = draft["jobs"]
        assert job["status"] == "DRAFT"
        assert (await typing("--json", "start", job["id"])).json["status"] in ("PENDING", "RUNNING")
        assert (await typing("--json", "cancel", draft["id"])).json["status"] == "CANCELLED"
        assert (await typing("--json", "retry", job["id"])).status == 0
    watched = await typing("watch", draft["id"])
    assert watched.status == 0
    assert "succeeded" in watched.out
    deleted = await typing("delete", "artifacts", job["id"])
    assert deleted.status == 0, deleted.err
    gone = await typing("download", job["id"], "--only", "summary.json", "--out", tmp_path)
    assert gone.status == 1


async def test_what_cannot_be_is_said_in_a_sentence(live: Live, typing: Typist, tmp_path: Path) -> None:
    picture = tmp_path / "not a slide.svs"
    picture.write_bytes(b"nothing" * 100)
    unreadable, nobody, nowhere = await asyncio.gather(
        typing("submit", picture),
        typing("show", "00000000-0000-0000-0000-000000000000"),
        Typist("http://127.0.0.1:9", "ada")("list"),
    )
    assert (unreadable.status, nobody.status, nowhere.status) == (1, 1, 1)
    assert "unreadable-slide" in unreadable.err
    assert "microtome list" in nobody.err
    assert "make up" in nowhere.err
    assert "../missing.svs" in (await typing("submit", "../missing.svs")).err
    assert (await typing("submit", picture, "--region", "1,2")).status == 2
