"""Microtome against the package that trained its architecture: `make bench-engine`.

On the same slides, with the same weights and on the same cores, in turns within one run: the package's
`eval_whole_slide_image` with its GeoJSON; the way that it chooses for an image in memory; Microtome's bare engine from
the file to cells.geojson, with the engine that `auto` picks and in fp32; `microtome segment` with all files; and the
services, from the accepted workflow to all files downloaded. Each runs in a process of its own, which has loaded its
model and its compiled code, has the memory that a worker takes for its largest tile when it starts, and has been over a
small slide in the same way; what one run read or decoded is forgotten before the next. Every way runs as often as every
other; seconds are medians, and the first run of each, which meets the slide's shapes for the first time, stands beside
them. Each begins when the machine is idle: what one leaves behind, pages that are given back for seconds after its end,
say, is not charged to the next.

Both read CMU-1-Small-Region (0.499 µm/px) pixel by pixel, as at 0.5. Cells agree with those that the package finds when
it runs untiled, normalised once for the whole image: F1 at IoU 0.5, objects under the model's least size left out of
both. The convolutions' share of the peak counts the operations that the engine executes: fewer than the model's where
it is rewritten, and where a part of what the network sees is not wanted; but all that a 3 × 3 convolution has as it is
written, of which Winograd's executes a quarter, so that its share may be more than 1. The last line is one JSON object;
where slides differ, the worse one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import shapely
from rich.console import Console
from rich.table import Table
from skimage.draw import polygon

from microtome.embedded.supervisor import EmbeddedStack
from microtome.scoring.scores import scores
from microtome.segmentation.engine import usable_cores
from microtome.segmentation.engines import available_engines
from microtome.segmentation.model import Model, load_model
from microtome.slides.conversion import make_readable
from microtome.slides.opening import open_slide
from microtome.slides.synthetic import write_synthetic_slide
from tests.bench import machine
from tests.bench.child import Child
from tests.bench.convolution import Executed, convolution_peak
from tests.bench.pipeline import WORKERS, through_services

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
REAL = (SHARED / "slides" / "CMU-1-Small-Region.svs", SHARED / "tiles" / "HE_example.tif")
MPP = 0.5
# In fp32, the fastest first; the last runs the model's file as it is, all of each patch.
FP32 = ("microtome-cpu-fp32", "openvino-cpu-fp32", "onnxruntime-cpu-fp32")
WAYS = ("package slide", "package memory", "auto", "fp32", "segment", "services")
# What the process of a way is asked for.
ASKED = {"package slide": "slide", "package memory": "memory", "auto": "engine", "fp32": "engine", "segment": "segment"}


@dataclass
class Slide:
    """One slide, and what was measured on it."""

    path: Path
    mpix: float
    runs: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {way: [] for way in WAYS})
    f1: dict[str, float] = field(default_factory=dict)
    untiled: int = 0

    def seconds(self, way: str) -> float:
        """The median run."""
        return float(statistics.median(run["seconds"] for run in self.runs[way]))

    def best(self, way: str) -> dict[str, Any]:
        """The run that others disturbed least."""
        return min(self.runs[way], key=lambda run: float(run["seconds"]))


@dataclass(frozen=True)
class Bench:
    """What is compared, once everything is up."""

    package: dict[str, Child]
    ours: dict[str, Child]
    stack: EmbeddedStack
    model: Model
    folder: Path

    async def run(self, slide: Slide, way: str) -> dict[str, Any]:
        """One run."""
        if way == "services":
            return await self.services_run(slide)
        return (self.package_run if way in self.package else self.ours_run)(slide, way, ASKED[way])

    def package_run(self, slide: Slide, way: str, what: str) -> dict[str, Any]:
        """Have the package do something to a copy of the slide, as it writes beside it."""
        with self._copy(slide) as image:
            labels = self.folder / f"{slide.path.stem}-{what}.npy"
            return self.package[way].ask(what=what, image=str(image), mpp=MPP, labels=str(labels))

    def ours_run(self, slide: Slide, way: str, what: str) -> dict[str, Any]:
        """Have Microtome do something to the slide."""
        labels, out = self.folder / f"{slide.path.stem}-{way}.npy", self.folder / "out"
        found = self.ours[way].ask(
            what=what, image=str(slide.path), mpp=MPP, out=str(out), labels=str(labels) if what == "engine" else None
        )
        if what == "segment":
            np.save(labels, drawn(out / "cells.parquet", json.loads((out / "summary.json").read_bytes())))
        return found

    async def services_run(self, slide: Slide) -> dict[str, Any]:
        """Have the services do it; uploading and converting the slide are not timed."""
        downloads = self.folder / "downloads"
        shutil.rmtree(downloads, ignore_errors=True)
        downloads.mkdir()
        found = await through_services(self.stack, slide.path, downloads)
        summary, engine = found["summary"], self.ours["auto"].hello["engine"]
        if summary["engine"] != engine:
            raise SystemExit(
                f"the services ran {summary['engine']}, the bare engine {engine}: they are not to be compared"
            )
        np.save(self.folder / f"{slide.path.stem}-services.npy", drawn(downloads / "cells.parquet", summary))
        pids = {name: pid for name in WORKERS if (pid := self.stack.pid(name)) is not None}
        peak = sum(machine.peaks(pids).values())
        return {"seconds": found["seconds"], "cells": summary["cells"], "peak_mb": peak}

    def labels(self, slide: Slide, name: str) -> np.ndarray:
        """What a run left, objects under the model's least size taken out, cut to the slide."""
        labels: np.ndarray = np.load(self.folder / f"{slide.path.stem}-{name}.npy")
        sizes = np.bincount(labels.ravel())
        small = sizes < self.model.min_size
        labels[small[labels]] = 0
        return labels

    @contextmanager
    def _copy(self, slide: Slide) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            yield Path(shutil.copyfile(slide.path, Path(folder) / slide.path.name))


def drawn(cells: Path, summary: dict[str, Any]) -> np.ndarray:
    """The label image that outlines stand for: the model pixels whose middles they enclose."""
    labels = np.zeros((summary["grid_height"], summary["grid_width"]), np.int32)
    outlines = shapely.from_wkb(pq.read_table(cells, columns=["geometry"])["geometry"].to_numpy(zero_copy_only=False))
    for label, outline in enumerate(outlines, 1):
        points = shapely.get_coordinates(outline.exterior) / summary["scale"] - 0.5
        labels[polygon(points[:, 1], points[:, 0], labels.shape)] = label
    return labels


async def warm(bench: Bench) -> None:
    """Send every way over a small slide; the package twice in memory, as TorchScript compiles at its second call."""
    path = bench.folder / "warm.tif"
    write_synthetic_slide(path, size=1024, seed=1)
    slide = Slide(path, 1.05)
    for way, what in (("package slide", "slide"), ("package memory", "memory"), ("package memory", "memory")):
        bench.package_run(slide, way, what)
    await bench.services_run(slide)


async def measure(bench: Bench, slides: Sequence[Slide], repeats: int) -> None:
    """All runs, in turns."""
    for _ in range(repeats):
        for slide in slides:
            for way in WAYS:
                machine.wait_until_idle()
                _note(slide, way, await bench.run(slide, way))
    for slide in slides:
        slide.untiled = _untiled(bench, slide)
        truth = bench.labels(slide, "untiled")
        for way in WAYS:
            name = way.removeprefix("package ")
            slide.f1[way] = scores(truth, _fitted(bench.labels(slide, name), truth.shape)).f1_50


def _untiled(bench: Bench, slide: Slide) -> int:
    """The package's untiled labels, once, in the process whose memory no longer counts."""
    return int(bench.package_run(slide, "package slide", "untiled")["cells"])


def _fitted(labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """`labels` on the lattice of `shape`; ways that round the size of the slide differ by a row or a column."""
    fitted = np.zeros(shape, np.int32)
    height, width = (min(pair) for pair in zip(labels.shape, shape, strict=True))
    fitted[:height, :width] = labels[:height, :width]
    return fitted


def _note(slide: Slide, way: str, run: dict[str, Any]) -> None:
    slide.runs[way].append(run)
    print(f"{slide.path.name:26} {way:15} {run['seconds']:8.3f} s  {run['cells']:6} cells", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Roof:
    """What an engine computes for a megapixel of which everything is wanted, and how much of that a second this machine
    can do; in 10⁹ operations.
    """

    gflop: float
    peak: float

    @classmethod
    def of(cls, model: Model, engine: str) -> Roof:
        """Measure it, in the precision of `engine`."""
        precision: Any = engine.rsplit("-", 1)[-1]
        peak = convolution_peak(precision, usable_cores(), seconds=4.0)
        return cls(Executed.of(model, engine).network.flops_per_pixel() / 1e3, peak / 1e9)

    def share(self, run: dict[str, Any]) -> float:
        """The convolutions' share of the peak while the network ran."""
        return float(run["network_gflop"] / run["stages"]["network"] / self.peak)


def head_ms(slide: Slide) -> float:
    """Milliseconds for which a megapixel that went through the network is in the head, whose threads share a tile."""
    run = slide.best("auto")
    return float(1000 * run["stages"]["head"] / run["network_mpix"])


def summary(bench: Bench, slides: Sequence[Slide], roofs: dict[str, Roof]) -> dict[str, Any]:
    """The last line."""

    def worst(values: list[float], digits: int = 3) -> float:
        return round(min(values), digits)

    def most(values: list[float], digits: int = 3) -> float:
        return round(max(values), digits)

    mm2 = MPP**2  # of one megapixel
    return {
        "package_wsi_s": most([slide.seconds("package slide") for slide in slides]),
        "package_memory_s": most([slide.seconds("package memory") for slide in slides]),
        "engine_s": most([slide.seconds("auto") for slide in slides]),
        "engine_fp32_s": most([slide.seconds("fp32") for slide in slides]),
        "segment_s": most([slide.seconds("segment") for slide in slides]),
        "services_s": most([slide.seconds("services") for slide in slides]),
        "services_over_engine": most([slide.seconds("services") / slide.seconds("auto") for slide in slides]),
        "services_over_segment": most([slide.seconds("services") / slide.seconds("segment") for slide in slides]),
        "speedup_vs_package_wsi": worst([s.seconds("package slide") / s.seconds("auto") for s in slides], 1),
        "speedup_fp32_vs_package_wsi": worst([s.seconds("package slide") / s.seconds("fp32") for s in slides], 1),
        "speedup_vs_package_memory": worst([s.seconds("package memory") / s.seconds("auto") for s in slides], 1),
        "f1_package_wsi_vs_untiled": worst([slide.f1["package slide"] for slide in slides], 4),
        "f1_package_memory_vs_untiled": worst([slide.f1["package memory"] for slide in slides], 4),
        "f1_ours_vs_untiled": worst([slide.f1["auto"] for slide in slides], 4),
        "f1_fp32_vs_untiled": worst([slide.f1["fp32"] for slide in slides], 4),
        "f1_segment_vs_untiled": worst([slide.f1["segment"] for slide in slides], 4),
        "f1_services_vs_untiled": worst([slide.f1["services"] for slide in slides], 4),
        "conv_peak_share": worst([roofs["auto"].share(slide.best("auto")) for slide in slides]),
        "conv_peak_share_fp32": worst([roofs["fp32"].share(slide.best("fp32")) for slide in slides]),
        "conv_peak_gflops": {way: round(roof.peak, 1) for way, roof in roofs.items()},
        "conv_gflop_per_mpix": {way: round(roof.gflop, 1) for way, roof in roofs.items()},
        "head_ms_per_mpx": most([head_ms(slide) for slide in slides], 2),
        "mpix_per_s": worst([slide.mpix / slide.seconds("auto") for slide in slides]),
        "mm2_per_s": worst([slide.mpix * mm2 / slide.seconds("auto") for slide in slides]),
        "cells_per_s": worst([slide.best("auto")["cells"] / slide.seconds("auto") for slide in slides], 1),
        "engine_idle_fraction": most([slide.best("auto")["idle"] for slide in slides], 4),
        "peak_mb": {way: most([run["peak_mb"] for slide in slides for run in slide.runs[way]], 1) for way in WAYS},
        "engine": bench.ours["auto"].hello["engine"],
        "engine_fp32": bench.ours["fp32"].hello["engine"],
        "slides": [slide.path.name for slide in slides],
        "repeats": len(slides[0].runs["auto"]),
        "machine": machine.facts(),
    }  # fmt: skip


def show(slides: Sequence[Slide]) -> None:
    """The table."""
    for slide in slides:
        table = Table(title=f"{slide.path.name}, {slide.mpix:.2f} MPix, package untiled: {slide.untiled:,} cells")
        for name in (
            "",
            "runs",
            "s (median)",
            "s (best)",
            "s (first)",
            "MPix/s",
            "mm²/s",
            "cells",
            "cells/s",
            "peak MB",
            "F1",
            "idle",
        ):
            table.add_column(name, justify="left" if not name else "right")
        for way in WAYS:
            seconds, best = slide.seconds(way), slide.best(way)
            table.add_row(
                way, f"{len(slide.runs[way])}", f"{seconds:.3f}", f"{best['seconds']:.3f}",
                f"{slide.runs[way][0]['seconds']:.3f}",
                f"{slide.mpix / seconds:.2f}", f"{slide.mpix * MPP**2 / seconds:.2f}",
                f"{best['cells']:,}", f"{best['cells'] / seconds:,.0f}",
                f"{best['peak_mb']:,.0f}", f"{slide.f1[way]:.4f}",
                f"{best['idle']:.3f}" if best.get("idle") is not None else "–",
            )  # fmt: skip
        Console(width=150).print(table)
        for way in ("auto", "fp32", "segment"):
            stages = ", ".join(f"{name} {value:.3f}" for name, value in slide.best(way)["stages"].items())
            print(f"  {way}: {stages}")


def chosen_slides(folder: Path) -> list[Slide]:
    """The real ones, or without them a generated one."""
    paths = [path for path in REAL if path.is_file()]
    if not paths:
        generated = folder / "generated.tif"
        write_synthetic_slide(generated, size=2048, seed=7)
        paths = [generated]
    slides = []
    for path in paths:
        link = folder / "measuring" / path.name
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(path)
        readable, _ = make_readable(link)
        with open_slide(readable) as opened:
            width, height = opened.dimensions
        slides.append(Slide(path, width * height / 1e6))
    return slides


async def bench_all(options: argparse.Namespace, folder: Path) -> None:
    """Start everything, measure, print."""
    model = load_model(options.model)
    slides = chosen_slides(folder)
    threads, here = str(usable_cores()), available_engines()
    fp32 = next(name for name in FP32 if here[name] is None)
    began = time.perf_counter()
    async with EmbeddedStack(folder / "stack") as stack:
        with ExitStack() as children:
            package = [options.package, "-m", "tests.bench.engine_package", str(model.network.parent), threads]
            ours = [sys.executable, "-m", "tests.bench.engine_ours", options.model]
            bench = Bench(
                package={way: children.enter_context(Child(*package)) for way in WAYS[:2]},
                ours={
                    "auto": children.enter_context(Child(*ours, "auto", threads)),
                    "fp32": children.enter_context(Child(*ours, fp32, threads)),
                    "segment": children.enter_context(Child(*ours, "auto", threads)),
                },
                stack=stack,
                model=model,
                folder=folder,
            )
            await warm(bench)
            await measure(bench, slides, options.repeats)
            roofs = {way: Roof.of(model, bench.ours[way].hello["engine"]) for way in ("auto", "fp32")}
    show(slides)
    found = summary(bench, slides, roofs)
    print(json.dumps({**found, "bench_s": round(time.perf_counter() - began, 1)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="runs of every way, the package's included (default 3)")
    parser.add_argument("--model", default="embedded", help="a model, or its folder")
    parser.add_argument("--package", default=str(ROOT / ".venv-parity" / "bin" / "python"), help="has instanseg-torch")
    options = parser.parse_args()
    if not Path(options.package).exists():
        raise SystemExit(f"There is no {options.package}; `make parity` makes it, or give another with --package.")
    with tempfile.TemporaryDirectory(prefix="microtome-bench-") as folder:
        asyncio.run(bench_all(options, Path(folder)))


if __name__ == "__main__":
    main()
