"""The package's own way over a slide, in an interpreter that has torch and instanseg-torch; started by `bench-engine`.

    PYTHON -m tests.bench.engine_package MODEL_FOLDER THREADS

Reads one JSON object a line: {"what": "slide" | "memory" | "untiled", "image": path, "mpp": µm per pixel, "labels":
path to write the label image to, or null}; answers with one: {"seconds", "cells"}. Seconds are those of the package's
call, with its GeoJSON for "slide"; model and libraries are loaded, and have run once, before the first is read.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

warnings.filterwarnings("ignore")
with contextlib.redirect_stdout(sys.stderr):
    from instanseg import InstanSeg
    from instanseg.utils.loss.instanseg_loss import InstanSeg_Torchscript, ProbabilityNet
    from instanseg.utils.models.InstanSeg_UNet import InstanSeg_UNet


def deployed(folder: Path) -> torch.nn.Module:
    """The model in the form that the package deploys, with the weights that the shipped network was made from."""
    facts = json.loads((folder / "model.json").read_text("utf-8"))
    layers = facts["architecture"]["layers"]
    network = InstanSeg_UNet(in_channels=3, layers=layers[::-1], out_channels=[[2, 2, 1]], norm="BATCH", act="ReLU")
    network.pixel_classifier = ProbabilityNet(4, len(facts["pixel_classifier"][0]["bias"]))
    network.load_state_dict(load_file(folder / "weights.safetensors"))
    network.eval()
    head = facts["head"]
    names = ("seed_threshold", "mask_threshold", "overlap_threshold", "peak_distance", "min_size")
    settings = {**{name: head[name] for name in names}, "window_size": head["window"]}
    whole = InstanSeg_Torchscript(network, pixel_size=facts["mpp"], params=settings)
    return torch.jit.script(whole)


def run(package: Any, wish: dict[str, Any]) -> dict[str, Any]:
    """One run of the package."""
    image, size = wish["image"], wish["mpp"]
    began = time.perf_counter()
    if wish["what"] == "slide":
        package.eval_whole_slide_image(image, pixel_size=size, save_geojson=True)
        seconds = time.perf_counter() - began
        import zarr

        stem = Path(image).stem + package.prediction_tag
        labels = np.asarray(zarr.open(str(Path(image).with_name(stem + ".zarr")), mode="r")[0])
    else:
        pixels, _ = package.read_image(image, processing_method="medium")
        way = package.eval_small_image if wish["what"] == "untiled" else _in_memory(package, pixels)
        found = way(pixels, pixel_size=size, return_image_tensor=False)
        seconds = time.perf_counter() - began
        labels = found.numpy().reshape(found.shape[-2:])
    labels = labels.astype(np.int32)
    if wish["labels"]:
        np.save(wish["labels"], labels)
    return {"seconds": seconds, "cells": int(np.count_nonzero(np.bincount(labels.ravel())[1:]))}


def _in_memory(package: Any, pixels: np.ndarray) -> Any:
    """What the package chooses for an image of this size."""
    chosen = package._get_eval_function_to_use(pixels.shape[0] * pixels.shape[1], "auto")
    return package.eval_small_image if chosen == "small" else package.eval_medium_image


def main() -> None:
    folder, threads = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(threads)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    package = InstanSeg(deployed(folder), device="cpu", verbosity=0)
    with torch.no_grad():
        package.eval_small_image(
            np.random.default_rng(0).integers(0, 255, (512, 512, 3)).astype(np.uint8), pixel_size=0.5
        )
        print(json.dumps({"ready": True}), file=answers)
        for line in sys.stdin:
            print(json.dumps(run(package, json.loads(line))), file=answers)


if __name__ == "__main__":
    main()
