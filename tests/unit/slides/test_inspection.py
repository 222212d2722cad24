"""What a slide is, found out from the file alone and in a process of its own."""

from __future__ import annotations

import hashlib
import json
import resource
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile

from microtome.errors import TooLarge, UnreadableSlide
from microtome.slides import intake, sandbox
from microtome.slides.conversion import make_readable
from microtome.slides.facts import SlideFacts, judge_pixel_size
from microtome.slides.inspection import inspect_slide
from microtome.slides.pyramid import write_pyramid
from microtome.slides.sandbox import inspect_sandboxed
from microtome.slides.synthetic import write_synthetic_slide
from microtome.slides.tiff_layout import check_complete

SLIDES = Path(__file__).resolve().parents[4] / "shared" / "data" / "slides"
real = pytest.mark.skipif(not SLIDES.is_dir(), reason="the real slides (../shared/data) are not here")


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "synthetic.tif"
    write_synthetic_slide(path, size=700, seed=1)
    return path


def test_facts_of_a_synthetic_slide(synthetic: Path) -> None:
    facts = inspect_slide(synthetic)
    assert facts.sha256 == hashlib.sha256(synthetic.read_bytes()).hexdigest()
    assert (facts.width, facts.height, facts.vendor) == (700, 700, "generic-tiff")
    assert [(level.width, level.downsample) for level in facts.levels] == [(700, 1.0), (350, 2.0), (175, 4.0)]
    assert facts.mpp == pytest.approx(0.5)
    assert facts.mpp_source == "resolution_tag"
    assert facts.stain == "brightfield"
    assert SlideFacts.from_json(json.loads(json.dumps(facts.to_json()))) == facts
    with tifffile.TiffFile(synthetic) as tiff:
        assert "ynthetic" in tiff.pages.first.description


@real
def test_facts_of_real_slides() -> None:
    cmu = inspect_slide(SLIDES / "CMU-1-Small-Region.svs")
    assert (cmu.vendor, cmu.width, cmu.height, cmu.mpp, cmu.mpp_source) == ("aperio", 2220, 2967, 0.499, "vendor")
    assert (cmu.objective_power, cmu.stain, cmu.notes) == (20.0, "brightfield", ())
    tcga = inspect_slide(SLIDES / "TCGA-CR-7395-01A-01-TS1.svs")
    assert (tcga.mpp, tcga.mpp_source, tcga.stain) == (None, "unknown", "brightfield")
    assert any("how large" in note for note in tcga.notes)
    dapi = inspect_slide(SLIDES / "test3-DAPI-2-387.ndpi")
    assert (dapi.vendor, dapi.stain, len(dapi.levels)) == ("hamamatsu", "fluorescence", 7)
    assert dapi.mpp == pytest.approx(0.22818, abs=1e-4)
    dicom = inspect_slide(SLIDES / "dicom" / "cmu-1-small-region" / "level-0-frames-0-30.dcm")
    assert (dicom.vendor, dicom.mpp) == ("dicom", 0.499)


@real
@pytest.mark.parametrize("name", ["CMU-1-Small-Region.svs", "TCGA-CR-7395-01A-01-TS1.svs", "test3-DAPI-2-387.ndpi"])
@pytest.mark.parametrize("kept", [0.3, 0.8, 0.97])
def test_truncated_vendor_slides_are_found(name: str, kept: float, tmp_path: Path) -> None:
    data = (SLIDES / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(UnreadableSlide, match="truncated"):
        inspect_slide(path)


@pytest.mark.parametrize("kept", [0.05, 0.4, 0.9, 0.999])
def test_truncated_pyramids_are_found(synthetic: Path, kept: float, tmp_path: Path) -> None:
    path = tmp_path / "cut.tif"
    data = synthetic.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(UnreadableSlide, match="truncated"):
        inspect_slide(path)
    with pytest.raises(UnreadableSlide, match="truncated"):
        make_readable(path)


def test_complete_files_pass_the_layout_check(synthetic: Path) -> None:
    check_complete(synthetic)
    if SLIDES.is_dir():
        for name in ("CMU-1-Small-Region.svs", "TCGA-CR-7395-01A-01-TS1.svs", "test3-DAPI-2-387.ndpi"):
            check_complete(SLIDES / name)


def test_zeroed_tiles_are_found_by_decoding(synthetic: Path, tmp_path: Path) -> None:
    # The right length, but its end was never written: what a download that reserves space leaves behind.
    path = tmp_path / "holes.tif"
    shutil.copy(synthetic, path)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        start, length = page.dataoffsets[-1], page.databytecounts[-1]
    with path.open("r+b") as file:
        file.seek(start)
        file.write(bytes(length))
    with pytest.raises(UnreadableSlide):
        inspect_slide(path)


def test_pixel_sizes_are_judged() -> None:
    assert judge_pixel_size(0.25, 0.26, "vendor").mpp == pytest.approx(0.255)
    uneven = judge_pixel_size(0.25, 0.30, "vendor")
    assert (uneven.mpp, uneven.source) == (None, "unknown")
    assert "square" in uneven.notes[0]
    for mpp in (25_400 / 72, 25_400 / 96, 0.001, float("nan"), float("inf")):
        assert judge_pixel_size(mpp, mpp, "resolution_tag").mpp is None
    assert judge_pixel_size(None, None, "vendor").source == "unknown"


def test_a_printers_resolution_is_no_pixel_size(tmp_path: Path) -> None:
    path = tmp_path / "dpi.tif"
    white = np.full((300, 300, 3), 240, np.uint8)
    write_pyramid(path, 300, 300, [white], compression="jpeg", mpp=25_400 / 72, description="72 dpi")
    facts = inspect_slide(path)
    assert (facts.mpp, facts.mpp_source) == (None, "unknown")


async def test_the_sandbox_gives_the_same_facts(synthetic: Path) -> None:
    assert await inspect_sandboxed(synthetic) == inspect_slide(synthetic)
    assert (await inspect_sandboxed(synthetic, sha256="ab" * 32)).sha256 == "ab" * 32


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"II*\0\x08\0\0\0", b"MM\0*", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", bytes(5000)]
)
async def test_what_is_no_image_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "slide.svs"
    path.write_bytes(content)
    with pytest.raises(UnreadableSlide):
        await inspect_sandboxed(path)


async def test_a_decompression_bomb_is_refused(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    path = tmp_path / "bomb.png"
    body = zlib.compress(bytes(10_000_000))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b""))
    with pytest.raises(TooLarge, match="pyramidal"):
        await inspect_sandboxed(path)


async def test_too_little_memory_is_an_error_of_the_file(synthetic: Path) -> None:
    with pytest.raises((UnreadableSlide, TooLarge)):
        await inspect_sandboxed(synthetic, memory_bytes=60 << 20)
    assert (await inspect_sandboxed(synthetic)).width == 700


async def test_a_timeout_leaves_nothing_behind(synthetic: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    children = []
    start = sandbox.asyncio.create_subprocess_exec

    async def remember(*arguments: str, **options: object) -> object:
        children.append(await start(*arguments, **options))
        return children[-1]

    monkeypatch.setattr(sandbox.asyncio, "create_subprocess_exec", remember)
    with pytest.raises(UnreadableSlide, match="within"):
        await inspect_sandboxed(synthetic, timeout_s=0.02)
    assert children[0].returncode is not None


def test_the_intake_process_answers_in_json(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "microtome.slides.intake", str(tmp_path / "none.svs")]
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(command, capture_output=True, check=True, cwd=root, env={"PYTHONPATH": str(root / "libs")})
    assert json.loads(done.stdout)["error"]["code"] == "unreadable-slide"


def test_the_intake_works_where_memory_cannot_be_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def as_on_macos(kind: int, limits: tuple[int, int]) -> None:
        if kind == resource.RLIMIT_AS:
            raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "setrlimit", as_on_macos)
    assert intake.main([str(tmp_path / "none.svs"), "--memory-bytes", "1000000000"]) == 0
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "unreadable-slide"
