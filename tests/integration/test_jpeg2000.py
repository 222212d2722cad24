"""JPEG 2000, as Aperio's scanners write it: the cells are those of the same pixels as JPEG, or stored plainly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import cv2
import imagecodecs
import numpy as np
import openslide
import pyarrow.parquet as pq
import pytest
import tifffile

from microtome.commandline.main import main
from microtome.slides.pyramid import write_pyramid
from microtome.slides.synthetic import paint

SHARED = Path(__file__).parents[3] / "shared" / "data"
FP32 = "onnxruntime-cpu-fp32"
TILE = 256
# Aperio's numbers for JPEG 2000 with colours as they are, and as brightness and two differences.
APERIO_RGB, APERIO_YCBCR = 33005, 33003


def painted(mpp: float) -> np.ndarray:
    """A painted slide with this many µm per pixel, the same tissue at each."""
    picture, _ = paint(512, 11)
    edge = round(512 * 0.5 / mpp)
    return cv2.resize(picture, (edge, edge), interpolation=cv2.INTER_CUBIC)


def write_aperio(path: Path, picture: np.ndarray, mpp: float, compression: int) -> None:
    if compression == APERIO_YCBCR:
        picture = cv2.cvtColor(picture, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]]
    height, width = picture.shape[:2]
    tiles = [
        imagecodecs.jpeg2k_encode(
            np.ascontiguousarray(picture[y : y + TILE, x : x + TILE]), level=45, codecformat="j2k", mct=False
        )
        for y in range(0, height, TILE)
        for x in range(0, width, TILE)
    ]
    said = f"Aperio Image Library v11.0.37\n{width}x{height} ({TILE}x{TILE}) J2K/KDU Q=70|AppMag = 20|MPP = {mpp}"
    with tifffile.TiffWriter(path) as writer:
        writer.write(
            iter(tiles), shape=picture.shape, dtype="uint8", tile=(TILE, TILE), photometric="rgb",
            compression=compression, description=said, metadata=None,
        )  # fmt: skip


def segmented(image: Path, out: Path, *more: str) -> tuple[dict[str, object], np.ndarray]:
    assert main(["segment", str(image), "--out", str(out), "--engine", FP32, *more]) == 0
    table = pq.read_table(out / "cells.parquet", columns=["seed_x", "seed_y"])
    seeds = np.stack([table["seed_x"].to_numpy(), table["seed_y"].to_numpy()], axis=1).astype(float)
    return json.loads((out / "summary.json").read_bytes()), seeds


@pytest.mark.parametrize(
    ("mpp", "compression", "other"),
    [(0.5, APERIO_RGB, "deflate"), (0.25, APERIO_RGB, "jpeg"), (0.5, APERIO_YCBCR, "jpeg")],
)
def test_the_cells_are_those_of_the_same_pixels_stored_otherwise(
    tmp_path: Path, mpp: float, compression: int, other: Literal["deflate", "jpeg"]
) -> None:
    picture = painted(mpp)
    edge = len(picture)
    write_aperio(tmp_path / "scan.svs", picture, mpp, compression)
    assert openslide.OpenSlide.detect_format(tmp_path / "scan.svs") == "aperio"
    write_pyramid(tmp_path / "plain.tif", edge, edge, iter([picture]), compression=other, mpp=mpp, description="plain")
    region = "--region", f"{edge // 8},{edge // 8},{edge // 2},{edge // 2}"
    summary, seeds = segmented(tmp_path / "scan.svs", tmp_path / "scan", *region)
    plain_summary, plain_seeds = segmented(tmp_path / "plain.tif", tmp_path / "plain", *region)
    assert summary["scale"] == plain_summary["scale"] == 0.5 / mpp
    assert len(plain_seeds) > 15
    assert abs(len(seeds) - len(plain_seeds)) <= 0.05 * len(plain_seeds)
    away = np.linalg.norm(seeds[:, None] - plain_seeds[None], axis=2).min(axis=1)
    assert np.mean(away <= 3 * 0.5 / mpp) > 0.9


@pytest.mark.skipif(not SHARED.is_dir(), reason="real images are not at ../shared/data")
def test_a_region_of_a_scanner_s_own(tmp_path: Path) -> None:
    # The file does not say its pixel size, and its nuclei are too small for 0.25.
    slide = SHARED / "slides" / "TCGA-CR-7395-01A-01-TS1.svs"
    summary, seeds = segmented(slide, tmp_path / "out", "--mpp", "0.5", "--region", "1500,1500,512,512")
    assert summary["scale"] == 1
    assert summary["cells"] == len(seeds) > 5
    assert (seeds >= 1500).all()
    assert (seeds < 2012).all()
