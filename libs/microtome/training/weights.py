"""Training's state on disk.

Promises: two kinds of file, both whole or absent. A state holds everything to go on with (weights, their average, the
optimiser, the step), and going on gives what an uninterrupted run would have given. A checkpoint holds the averaged
weights as safetensors, with the recipe, the data's digest and its scores in the metadata, beside the `model.json` that
`microtome model import` reads.
Refuses: a state of another recipe.
"""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from microtome.errors import ModelMismatch
from microtome.models.structure import bare
from microtome.models.unet import InstanSegUNet
from microtome.training.widening import Widening, widened

NAME = "embedded_brightfield_nuclei"


class Average:
    """An exponential moving average of a network's weights and running statistics; steadier than the last step's."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._decay = decay

    def follow(self, network: nn.Module, step: int) -> None:
        """Take in the network after `step` steps; the first steps count more, so that the start is soon forgotten."""
        keep = min(self._decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for mine, theirs in zip(self.network.state_dict().values(), network.state_dict().values(), strict=True):
                if mine.dtype.is_floating_point:
                    mine.lerp_(theirs, 1 - keep)
                else:
                    mine.copy_(theirs)


def read_weights(path: Path, layers: tuple[int, ...], widening: Widening | None = None) -> InstanSegUNet:
    """A network with the weights of a safetensors file, or with those of a smaller network that are widened.

    Raises `ModelMismatch` if they do not fit.
    """
    network = InstanSegUNet(layers)
    tensors = load_file(path)
    if widening:
        small = bare({name: tensor.numpy() for name, tensor in tensors.items()})
        wide = widened(small, layers, widening)
        tensors = network.state_dict() | {name: torch.from_numpy(value) for name, value in wide.items()}
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ModelMismatch(f"{path} does not hold weights of a network with layers {layers}: {error}") from error
    return network


def fresh(layers: tuple[int, ...]) -> InstanSegUNet:
    """A network that has learned nothing, except that most of tissue is not the middle of a nucleus.

    The seed logit's usual value is -7.5; from 0 the optimiser would be hundreds of steps on the way.
    """
    network = InstanSegUNet(layers)
    last = network.decoders[0].final_block[-1][1]
    nn.init.constant_(last.bias, -5.0)
    nn.init.constant_(last.weight, 3.0)
    return network


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a state so that a kill leaves the last one."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def load_state(path: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Read a state. Raises `ModelMismatch` if other data, another recipe or another start made it.

    How many steps there shall be may change while a run stands still; `schedule` in the record says when it did.
    """
    state: dict[str, Any] = torch.load(path, weights_only=True)
    made_by = state["record"]
    if any(json.dumps(made_by[part]) != json.dumps(record[part]) for part in ("recipe", "data", "init")):
        raise ModelMismatch(f"{path} was made by another recipe or from other data; give another folder or remove it.")
    return state


def save_checkpoint(
    folder: Path, network: InstanSegUNet, layers: tuple[int, ...], head: dict[str, float], record: dict[str, Any]
) -> Path:
    """Write `<NAME>.safetensors` and `model.json` into `folder`; gives the former's path.

    `head`: seed, mask and overlap thresholds, peak distance, window and smallest size; `record`: recipe, data, scores.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / f"{NAME}.safetensors"
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in network.state_dict().items()}
    partial = weights.with_suffix(".partial")
    save_file(tensors, partial, metadata={"recipe": json.dumps(record, sort_keys=True)})
    partial.replace(weights)
    facts = {
        "name": NAME,
        "architecture": "InstanSeg_UNet",
        "layers": list(layers),
        "in_channels": 3,
        "out_channels": [[2, 2, 1]],
        "norm": "BATCH",
        "activation": "ReLU",
        "pixel_classifier": {"inputs": 4, "mlp_width": network.pixel_classifier.fc1.out_features},
        "dim_coords": 2,
        "n_sigma": 2,
        "dim_seeds": 1,
        "pixel_size_um": record["recipe"]["sampling"]["mpp"],
        "normalisation": {"per_channel_percentiles": [0.1, 99.9], "clamp": record["recipe"]["sampling"]["clamp"]},
        "coordinate_step": record["recipe"]["terms"]["coordinate_step"],
        "window_size": head["window"],
        "peak_distance": head["peak_distance"],
        "seed_threshold": head["seed_threshold"],
        "mask_threshold": head["mask_threshold"],
        "overlap_threshold": head["overlap_threshold"],
        "min_size_px": head["min_size"],
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "training": record,
        "sha256": {weights.name: hashlib.sha256(weights.read_bytes()).hexdigest()},
    }
    (folder / "model.json").write_text(json.dumps(facts, indent=1) + "\n", "utf-8")
    return weights
