"""Training itself.

    python -m microtome.training.loop --data FOLDER --out FOLDER [--init WEIGHTS.safetensors] [--steps N] [--smoke]
    python -m microtome.training.loop --data FOLDER --out FOLDER --widen WEIGHTS.safetensors --layers 32,64,128,256

Promises: a run that is killed and started again with the same arguments goes on where its last state was; the samples
of a step depend on its number alone. Every few minutes the averaged weights are scored on the choosing fold, and the
best of them is kept as `best/`, with thresholds chosen on that fold; `last/` holds the newest. `log.jsonl` says how it
went.
Refuses: to see the images that scores are reported on (`labelled.Fold`).
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import os
import platform
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from microtome.errors import ConfigurationError
from microtome.models.unet import InstanSegUNet
from microtome.segmentation.model import Model, PixelClassifier
from microtome.training import evaluation, weights
from microtome.training.labelled import Fold, Labelled, digest, read_groups
from microtome.training.loss import Terms, choose_points, instance_loss, seed_loss
from microtome.training.procedural import picture
from microtome.training.sampling import Recipe, Sample, Sampler
from microtome.training.widening import Widening

_SAVE_SECONDS = 120
HEAD = {
    "window": 32,
    "peak_distance": 5,
    "seed_threshold": 0.4,
    "mask_threshold": 0.53,
    "overlap_threshold": 0.3,
    "min_size": 10,
}


@dataclass(frozen=True)
class Plan:
    """A run. `steps`, `rate`: the rate falls from `rate` to a hundredth of it along a cosine, after a short rise."""

    layers: tuple[int, ...] = (16, 32, 64, 128)
    held_out: str = "tnbc05"
    steps: int = 6000
    batch: int = 8
    rate: float = 1e-3
    rise: int = 100
    decay: float = 2e-2
    average: float = 0.998
    pictures: int = 48
    seed: int = 1


def rate_at(plan: Plan, step: int) -> float:
    """Learning rate of a step."""
    along = min(1.0, step / plan.steps)
    return plan.rate * min(1.0, (step + 1) / plan.rise) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * along)))


def as_model(network: InstanSegUNet, recipe: Recipe, terms: Terms, head: dict[str, float]) -> Model:
    """The head's view of a network that is still being trained; its file does not exist."""
    layers = network.pixel_classifier
    flat = torch.cat(
        [
            part.detach().flatten()
            for layer in (layers.fc1, layers.fc2, layers.fc3)
            for part in (layer.weight, layer.bias)
        ]
    )
    return Model(
        name=weights.NAME,
        digest="",
        network=Path(),
        mpp=recipe.mpp,
        halo_min=96,
        percentiles=(0.1, 99.9),
        coordinate_step=terms.coordinate_step,
        window=int(head["window"]),
        peak_distance=int(head["peak_distance"]),
        seed_threshold=head["seed_threshold"],
        mask_threshold=head["mask_threshold"],
        overlap_threshold=head["overlap_threshold"],
        min_size=int(head["min_size"]),
        pixel_classifier=PixelClassifier(hidden=layers.fc1.out_features, flat=flat.numpy().astype(np.float32)),
    )


def runner(network: InstanSegUNet, clamp: tuple[float, float]) -> evaluation.Network:
    """The network in fp32 as `evaluation` calls it."""

    def run(pixels: NDArray[np.uint8], low: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.float32]:
        normal = ((pixels.astype(np.float32) - low) * scale).clip(*clamp)
        batch = torch.from_numpy(normal.transpose(2, 0, 1)[None].copy()).to(memory_format=torch.channels_last)
        with torch.no_grad():
            logits: NDArray[np.float32] = network(batch)[0].contiguous().numpy()
        return logits

    return run


def batches(sampler: Sampler, plan: Plan, first: int) -> Iterator[tuple[torch.Tensor, ...]]:
    """The batches of steps `first`, `first` + 1 …, drawn two steps ahead on one thread."""

    def draw(step: int) -> tuple[torch.Tensor, ...]:
        samples: list[Sample] = [sampler.draw(step * plan.batch + each) for each in range(plan.batch)]
        return tuple(
            torch.from_numpy(np.stack([getattr(sample, part) for sample in samples]))
            for part in ("pixels", "labels", "distance", "certain")
        )

    with ThreadPoolExecutor(1) as pool:
        ahead: list[Future[tuple[torch.Tensor, ...]]] = [pool.submit(draw, first + each) for each in range(2)]
        for step in range(first, plan.steps):
            yield ahead.pop(0).result()
            ahead.append(pool.submit(draw, step + 2))


def train(
    data: Path,
    out: Path,
    init: Path | None,
    plan: Plan,
    recipe: Recipe,
    terms: Terms,
    minutes: float,
    widening: Widening | None = None,
) -> None:
    """Run until `plan.steps`, scoring every `minutes`, from scratch, from `init`, or from `init` widened.

    Raises `ModelMismatch` if `out` holds another recipe's state, or if `init` is of another network.
    """
    fold = Fold.holding_out(plan.held_out)
    learned, choosing = read_groups(data, fold.learned), read_groups(data, fold.choosing)
    made = tuple(
        Labelled(f"{number}", "procedural", *picture(plan.seed * 1000 + number), recipe.mpp, guessed=False, sha256="")
        for number in range(plan.pictures)
    )
    settled = {name: value for name, value in asdict(plan).items() if name != "steps"}
    record: dict[str, Any] = {
        "recipe": {"plan": settled, "sampling": asdict(recipe), "terms": asdict(terms)}
        | ({"widening": asdict(widening)} if widening else {}),
        "data": {"learned": fold.learned, "choosing": fold.choosing, "sha256": digest((*learned, *choosing))},
        "init": hashlib.sha256(init.read_bytes()).hexdigest() if init else None,
        "schedule": [],
    }
    torch.manual_seed(plan.seed)
    network = weights.read_weights(init, plan.layers, widening) if init else weights.fresh(plan.layers)
    network = network.to(memory_format=torch.channels_last).train()
    average = weights.Average(network, plan.average)
    optimiser = torch.optim.AdamW(network.parameters(), lr=plan.rate, weight_decay=plan.decay)
    out.mkdir(parents=True, exist_ok=True)
    first, best, path = 0, -1.0, out / "state.pt"
    if path.exists():
        state = weights.load_state(path, record)
        network.load_state_dict(state["network"])
        average.network.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        first, best, record["schedule"] = state["step"], state["best"], state["record"]["schedule"]
    record["schedule"].append({"from": first, "steps": plan.steps})
    sampler = Sampler((*learned, *made), recipe)
    began = scored = saved = time.monotonic()
    sums, counted = np.zeros(2), 0
    for step, batch in enumerate(batches(sampler, plan, first), start=first + 1):
        for group in optimiser.param_groups:
            group["lr"] = rate_at(plan, step - 1)
        sums += _step(network, optimiser, batch, terms, plan.seed + step)
        counted += 1
        average.follow(network, step)
        if step % 25 == 0:
            seconds = (time.monotonic() - began) / (step - first)
            _log(out, {"step": step, "seed": sums[0] / counted, "instance": sums[1] / counted, "step_seconds": seconds})
            sums, counted = np.zeros(2), 0
        if time.monotonic() - scored > 60 * minutes or step == plan.steps:
            best = _score(out, average.network, choosing, plan, recipe, terms, record, step, best)
            scored = time.monotonic()
        if time.monotonic() - saved > _SAVE_SECONDS or step == plan.steps:
            state = {
                "network": network.state_dict(),
                "average": average.network.state_dict(),
                "optimiser": optimiser.state_dict(),
                "step": step,
                "best": best,
                "record": record,
            }
            weights.save_state(path, state)
            saved = time.monotonic()


def _step(
    network: InstanSegUNet, optimiser: torch.optim.Optimizer, batch: tuple[torch.Tensor, ...], terms: Terms, seed: int
) -> NDArray[np.float64]:
    """One step; gives the two losses."""
    pixels, labels, distance, certain = batch
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(pixels.to(memory_format=torch.channels_last))
    logits = logits.float()
    generator = torch.Generator().manual_seed(seed)
    points = choose_points(logits.detach()[:, 4], labels, distance, certain, terms, generator)
    seeds = seed_loss(logits[:, 4], distance, certain, terms)
    instances = instance_loss(logits, labels, certain, points, network.pixel_classifier, terms)
    optimiser.zero_grad(set_to_none=True)
    (terms.seed * seeds + instances).backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0)
    optimiser.step()
    return np.array([float(seeds.detach()), float(instances.detach())])


def _score(
    out: Path,
    network: InstanSegUNet,
    choosing: tuple[Labelled, ...],
    plan: Plan,
    recipe: Recipe,
    terms: Terms,
    record: dict[str, Any],
    step: int,
    best: float,
) -> float:
    """Score the averaged weights, keep them, and as the best if they are; gives the best PQ so far."""
    run = runner(network, recipe.clamp)
    pairs = [(evaluation.logits_of(run, image, (0.1, 99.9)), image) for image in choosing]
    chosen, scores = evaluation.calibrate(pairs, as_model(network, recipe, terms, HEAD))
    head = HEAD | {"seed_threshold": chosen.seed_threshold, "mask_threshold": chosen.mask_threshold}
    _log(out, {"step": step, "head": head, "scores": asdict(scores)})
    versions = {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "cv2": cv2.__version__,
        "python": platform.python_version(),
    }
    full = record | {"step": step, "choosing_scores": asdict(scores), "versions": versions}
    weights.save_checkpoint(out / "last", network, plan.layers, head, full)
    if scores.pq > best:
        weights.save_checkpoint(out / "best", network, plan.layers, head, full)
    return max(best, scores.pq)


def _log(out: Path, entry: dict[str, Any]) -> None:
    line = json.dumps({"at": time.strftime("%H:%M:%S", time.gmtime())} | entry)
    with (out / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write(line + "\n")
    print(line, flush=True)


def _main() -> None:
    parser = argparse.ArgumentParser(description="Train the embedded model.")
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data/labelled"), help="folder of the labelled sets"
    )
    parser.add_argument("--out", type=Path, default=Path(".microtome/training"), help="where states and checkpoints go")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--init", type=Path, help="weights (safetensors) to start from; without, from scratch")
    start.add_argument("--widen", type=Path, help="weights of a smaller network to start from; --layers says how wide")
    parser.add_argument("--steps", type=int, default=Plan.steps)
    parser.add_argument("--rate", type=float, default=Plan.rate)
    parser.add_argument("--batch", type=int, default=Plan.batch)
    parser.add_argument("--layers", default="16,32,64,128")
    parser.add_argument("--threads", type=int, default=0, help="cores for the network, 0 for all")
    parser.add_argument("--minutes", type=float, default=15, help="minutes between scores")
    parser.add_argument("--smoke", action="store_true", help="one minute on two images: does the loss fall?")
    given = parser.parse_args()
    if given.steps < 1 or given.batch < 1:
        raise ConfigurationError("A run has at least one step, and a batch at least one image.")
    if given.threads:
        torch.set_num_threads(given.threads)
    cv2.setNumThreads(1)
    plan = Plan(
        layers=tuple(int(width) for width in given.layers.split(",")),
        steps=given.steps,
        rate=given.rate,
        batch=given.batch,
    )
    if given.smoke:
        smoke(plan)
        return
    widening = Widening() if given.widen else None
    train(given.data, given.out, given.widen or given.init, plan, Recipe(), Terms(), given.minutes, widening)


def smoke(plan: Plan, steps: int = 60) -> None:
    """Learn two samples by heart; raises `ConfigurationError` if the loss does not fall by a third."""
    made = tuple(Labelled(f"{n}", "procedural", *picture(n), 0.5, guessed=False, sha256="") for n in range(2))
    sampler = Sampler(made, Recipe(crop=96, shares=(("procedural", 1.0),)))
    torch.manual_seed(plan.seed)
    network = weights.fresh(plan.layers).to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-2)
    two = next(batches(sampler, dataclasses.replace(plan, batch=2), 0))
    losses = [float(_step(network, optimiser, two, Terms(), step).sum()) for step in range(steps)]
    before, after = np.mean(losses[:5]), np.mean(losses[-5:])
    print(f"loss {before:.3f} → {after:.3f} in {steps} steps")
    if not after < 0.67 * before:
        raise ConfigurationError(f"The loss did not fall by a third: {before:.3f} → {after:.3f}.")


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _main()
