"""`make compare-tissue`: this project's tissue mask beside plain Otsu, on painted scenes and on real slides.

Promises: on painted scenes, where it is known what is tissue, the agreement of every method with the truth; on real
images, if they are at hand, the share each method calls tissue beside what was expected by eye; pictures of both. The
exit status is 1 where another method agrees better on average.
Refuses: to leave pixels of real images anywhere but under `test-results/`.

The others, as they are usually set up:
- `grey`: Otsu's threshold on grey values; darker is tissue.
- `saturation`: the saturation, its median over 7 pixels, Otsu's threshold, a closing of 4 pixels.
- `brightness`: a fixed threshold of 200 on the mean of the channels, smoothed by a pixel, as viewers offer it.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from microtome.slides.conversion import make_readable
from microtome.slides.opening import cached_slide
from microtome.slides.thumbnail import thumbnail
from microtome.tissue.mask import ASSUMED_MPP, MAX_SIDE, MIN_SIDE, TARGET_UM, tissue_mask
from tests.scenes.shares import SLIDES, TILES
from tests.scenes.tissue import MPP, SCENES

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
CELL = 190

Pixels = NDArray[np.uint8]
Bits = NDArray[np.bool_]
Method = Callable[[Pixels, float], Bits]


@dataclass(frozen=True, slots=True)
class Case:
    """A picture at `mpp`, and what is known of its tissue: all of it, or between which shares it lies."""

    name: str
    rgb: Pixels
    mpp: float
    truth: Bits | None = None
    low: float = 0.0
    high: float = 1.0


def ours(rgb: Pixels, mpp: float) -> Bits:
    """The mask of this project."""
    return tissue_mask(rgb, mpp)[0]


def grey_otsu(rgb: Pixels, mpp: float) -> Bits:
    """Otsu's threshold on grey values."""
    _, dark = cv2.threshold(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), 0, 255, cv2.THRESH_BINARY_INV | cv2.THRESH_OTSU)
    return np.asarray(dark > 0, np.bool_)


def saturation_otsu(rgb: Pixels, mpp: float) -> Bits:
    """Otsu's threshold on the median-filtered saturation, then a closing."""
    saturation = cv2.medianBlur(np.ascontiguousarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)[..., 1]), 7)
    _, stained = cv2.threshold(saturation, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return np.asarray(cv2.morphologyEx(stained, cv2.MORPH_CLOSE, np.ones((4, 4), np.uint8)) > 0, np.bool_)


def brightness(rgb: Pixels, mpp: float) -> Bits:
    """A fixed threshold on the brightness."""
    mean = cv2.GaussianBlur(np.asarray(rgb.mean(axis=2), np.float32), (0, 0), 1)
    return np.asarray(mean < 200, np.bool_)


METHODS: Mapping[str, Method] = {
    "ours": ours, "grey": grey_otsu, "saturation": saturation_otsu, "brightness": brightness,
}  # fmt: skip


def painted() -> Iterator[Case]:
    """Scenes of which everything is known."""
    for name, paint in SCENES.items():
        scene = paint()
        yield Case(name, scene.rgb, MPP, scene.truth)


def real() -> Iterator[Case]:
    """The real images, if they are here."""
    if not DATA.is_dir():
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, (mpp, low, high) in SLIDES.items():
            path = Path(folder) / name
            shutil.copyfile(DATA / "slides" / name, path)
            make_readable(path)
            longest = max(cached_slide(path).dimensions)
            side = longest * (mpp or ASSUMED_MPP) / TARGET_UM
            picture = thumbnail(path, min(longest, MAX_SIDE, max(MIN_SIDE, round(side))))
            yield Case(name, picture, (mpp or ASSUMED_MPP) * longest / max(picture.shape[:2]), None, low, high)
    for name, (mpp, low, high) in TILES.items():
        rgb = np.asarray(Image.open(DATA / "tiles" / "artifacts" / f"{name}.png").convert("RGB"))
        half = cv2.resize(rgb, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        yield Case(name, np.asarray(half, np.uint8), mpp, None, low, high)


def iou(found: Bits, truth: Bits) -> float:
    """Intersection over union; 1 where both are empty."""
    union = int((found | truth).sum())
    return 1.0 if union == 0 else int((found & truth).sum()) / union


def framed(picture: Pixels, mask: Bits | None, caption: str) -> Pixels:
    """A picture of the grid: what is no tissue is dimmed, the edge is green."""
    factor = CELL / max(picture.shape[:2])
    size = max(1, round(picture.shape[1] * factor)), max(1, round(picture.shape[0] * factor))
    small = np.array(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
    if mask is not None:
        bits = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        small[bits == 0] = (small[bits == 0] * 0.5).astype(np.uint8)
        edges, _ = cv2.findContours(bits, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(small, edges, -1, (0, 230, 90), 1)
    cell = np.full((small.shape[0] + 22, CELL + 6, 3), 255, np.uint8)
    cell[16 : 16 + small.shape[0], : small.shape[1]] = small
    cv2.putText(cell, caption[:32], (1, 11), cv2.FONT_HERSHEY_SIMPLEX, 0.34, (40, 40, 40), 1, cv2.LINE_AA)
    return cell


def compare(cases: Iterator[Case]) -> tuple[list[list[str]], list[Pixels], dict[str, list[float]]]:
    """A table, the rows of a picture, and each method's agreement (IoU, or 1 where a share is as expected)."""
    rows, pictures = [], []
    agreement: dict[str, list[float]] = {name: [] for name in METHODS}
    for case in cases:
        masks = {name: method(case.rgb, case.mpp) for name, method in METHODS.items()}
        if case.truth is None:
            expected = f"{case.low:.3f}–{case.high:.3f}" if case.high else "0"
            good = {name: float(case.low <= mask.mean() <= case.high) for name, mask in masks.items()}
            told = {name: f"{mask.mean():.3f}{' ' if good[name] else ' ✗'}" for name, mask in masks.items()}
        else:
            expected = f"{case.truth.mean():.3f}"
            good = {name: iou(mask, case.truth) for name, mask in masks.items()}
            told = {name: f"{good[name]:.3f}" for name in masks}
        for name in METHODS:
            agreement[name].append(good[name])
        rows.append([case.name, expected, *told.values()])
        shown = [framed(case.rgb, None, case.name)]
        shown += [framed(case.rgb, mask, f"{name} {told[name]}".replace("✗", "x")) for name, mask in masks.items()]
        pictures.append(np.hstack(shown))
    return rows, pictures, agreement


def tell(title: str, rows: list[list[str]], agreement: dict[str, list[float]], what: str) -> None:
    """Print a table in Markdown."""
    print(f"\n{title}\n\n| image | tissue | {' | '.join(METHODS)} |\n|---|---|{'---|' * len(METHODS)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    print(f"| **{what}** | | {' | '.join(f'{np.mean(values):.3f}' for values in agreement.values())} |")


def is_best(agreement: dict[str, list[float]]) -> bool:
    """Say whether our mask agrees best, on average."""
    means = {name: float(np.mean(values)) for name, values in agreement.items()}
    return max(means, key=lambda name: means[name]) == "ours"


def timed(side: int) -> tuple[float, float]:
    """Wall and processor seconds of our mask on a picture of `side` pixels with tissue and pens."""
    one = [SCENES[name]().rgb for name in ("H&E", "fatty", "IHC", "blank", "green pen", "black border")]
    line = np.hstack(one * (side // one[0].shape[1] // len(one) + 1))
    picture = np.ascontiguousarray(np.vstack([line] * (side // line.shape[0] + 1))[:side, :side])
    wall, cpu = time.perf_counter(), time.process_time()
    tissue_mask(picture, MPP)
    return time.perf_counter() - wall, time.process_time() - cpu


def main(arguments: list[str] | None = None) -> int:
    """Compare, print and draw."""
    parser = argparse.ArgumentParser(description="Compare the tissue mask with plain Otsu.")
    parser.add_argument("--out", type=Path, default=ROOT / "test-results" / "tissue", help="where pictures go")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    rows, pictures, agreement = compare(painted())
    tell("Painted scenes: intersection over union with the truth", rows, agreement, "mean")
    Image.fromarray(np.vstack(pictures)).save(options.out / "painted.png", optimize=True)
    best = is_best(agreement)
    rows, pictures, agreement = compare(real())
    if rows:
        best = best and is_best(agreement)
        tell("Real images: the share that is tissue; ✗ is not as expected by eye", rows, agreement, "as expected")
        Image.fromarray(np.vstack(pictures)).save(options.out / "real.png", optimize=True)
    else:
        print("\nThe real images (../shared/data) are not here.")
    wall, cpu = timed(4096)
    print(f"\nOurs on 4096 x 4096 pixels: {wall:.2f} s, {cpu:.2f} s of processor time. Pictures: {options.out}")
    return int(not best)


if __name__ == "__main__":
    sys.exit(main())
