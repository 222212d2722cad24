"""The package's own head, run by its own interpreter (torch and instanseg-torch live there alone).

`python -m tests.parity.package GIVEN MADE`: reads cases, writes them with the package's labels, with the logits of its
random networks, and with the coordinates that it uses.
"""

from __future__ import annotations

import sys
import time
import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

from tests.parity.cases import Case, Suite, load, save

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from instanseg.utils.loss.instanseg_loss import InstanSeg_Torchscript, ProbabilityNet, generate_coordinate_map
    from instanseg.utils.models.InstanSeg_UNet import InstanSeg_UNet
    from instanseg.utils.tiling import _instanseg_padding, _recover_padding

# The deployed module clamps what goes into its network to [-2, 3]. A power of two more, and logits go through unharmed.
_SCALE = 64.0


class _Given(torch.nn.Module):
    """In place of the network: gives back what it is given."""

    def __init__(self, classifier: torch.nn.Module) -> None:
        super().__init__()
        self.pixel_classifier = classifier

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * _SCALE


def _put(flat: np.ndarray, net: torch.nn.Module) -> None:
    at = 0
    for layer in (net.fc1, net.fc2, net.fc3):
        for parameter in (layer.weight, layer.bias):
            parameter.copy_(torch.from_numpy(flat[at : at + parameter.numel()].reshape(parameter.shape).copy()))
            at += parameter.numel()


def _deployed(model: torch.nn.Module, channels: int) -> torch.nn.Module:
    """As the package deploys a model: scripted."""
    model.eval()
    return torch.jit.script(InstanSeg_Torchscript(model, pixel_size=0.5, backbone_dim_in=channels))


def _labels(head: torch.nn.Module, given: np.ndarray, case: Case) -> np.ndarray:
    settings = case.settings
    arguments = {
        "seed_threshold": torch.tensor(settings.seed_threshold),
        "peak_distance": torch.tensor(settings.peak_distance),
        "mask_threshold": torch.tensor(settings.mask_threshold),
        "overlap_threshold": torch.tensor(settings.overlap_threshold),
        "window_size": torch.tensor(float(settings.window)),
    }
    found = head(torch.from_numpy(given[None].copy()), arguments)
    return found[0, 0].numpy().astype(np.int32)


@cache
def _random_network(seed: int) -> torch.nn.Module:
    """A network as the package makes it, with random weights, deployed as the package deploys one."""
    torch.manual_seed(seed)
    network = InstanSeg_UNet(in_channels=3, layers=[64, 32, 16, 8], out_channels=[[2, 2, 1]], norm="BATCH", act="ReLU")
    network.pixel_classifier = ProbabilityNet(4, 5)
    # Batch norms that have seen something: else a network of random weights says the same everywhere.
    network.train()
    for _ in range(4):
        network(torch.rand(2, 3, 96, 96))
    return _deployed(network, 3)


def main() -> None:
    given, answer = Path(sys.argv[1]), Path(sys.argv[2])
    suite = load(given)
    done = []
    with torch.no_grad():
        head = _deployed(_Given(ProbabilityNet(4, 5)), 5)
        for case in suite.cases:
            began = time.perf_counter()
            if case.logits is not None:
                assert abs(case.logits).max() <= 2 * _SCALE
                _put(suite.classifiers[case.classifier], head.pixel_classifier)
                made = replace(case, labels=_labels(head, case.logits / np.float32(_SCALE), case))
            else:
                assert case.network is not None
                assert case.pixels is not None
                whole = _random_network(case.network)
                _put(suite.classifiers[case.classifier], whole.pixel_classifier)
                x, pad = _instanseg_padding(torch.from_numpy(case.pixels[None].copy()), extra_pad=0)
                logits = _recover_padding(whole.fcn(x)[0], pad).numpy()
                made = replace(case, labels=_labels(whole, case.pixels, case), logits=logits)
            done.append(made)
            print(f"{case.name}: {time.perf_counter() - began:.1f} s", file=sys.stderr)
    edges = {edge for case in done for edge in case.labels.shape}
    lines = {
        edge: generate_coordinate_map("linear", 2, edge, edge, torch.device("cpu"))[0, 0].numpy() for edge in edges
    }
    save(Suite(done, suite.classifiers, lines), answer)


if __name__ == "__main__":
    main()
