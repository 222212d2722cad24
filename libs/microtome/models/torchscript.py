"""Models in the package's deployed form: TorchScript with the head inside.

Promises: weights, thresholds and pixel size are those that the file itself carries, as attributes or as defaults of
its `forward`; the file's own network and head can be run for comparison.
Refuses: TorchScript that is no InstanSeg. Loading TorchScript, and comparing with it, runs what is in the file: only
files from people you trust should be imported (docs/models.md). Needs `torch`.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microtome.models.description import Facts
from microtome.models.pytorch import torch_module
from microtome.models.refusals import ModelRefused
from microtome.segmentation.head import Coordinates

_HEAD_PREFIX = "default_"
_CLASSES = ("nuclei", "cells")


class TorchScriptNetwork:
    """The file's own network and head."""

    def __init__(self, script: Any) -> None:  # noqa: ANN401 - a scripted module
        self._script = script

    def logits(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `OwnNetwork.logits`."""
        torch = torch_module()
        with _running(torch):
            found: NDArray[np.float32] = self._script.fcn(torch.from_numpy(images)).float().numpy()
        return found

    def coordinates(self, height: int, width: int) -> Coordinates:
        """See `OwnNetwork.coordinates`."""
        torch = torch_module()
        across, down = (torch.linspace(0, edge * 64 / 256, edge).numpy() for edge in (width, height))
        return Coordinates(across, down)

    def labels(self, image: NDArray[np.float32], object_class: int) -> NDArray[np.int32]:
        """See `OwnNetwork.labels`."""
        torch = torch_module()
        wanted = torch.tensor([int(number == object_class) for number in range(len(_CLASSES))])
        with _running(torch):
            # The head clamps its input in place.
            found = self._script(torch.from_numpy(image.copy())[None], target_segmentation=wanted)
        return np.asarray(found[0, 0].numpy(), np.int32)


@contextlib.contextmanager
def _running(torch: Any) -> Iterator[None]:  # noqa: ANN401 - torch is not there when types are checked
    """Not optimised: that takes longer than it saves here, and would change the last bits from the third call on."""
    with torch.inference_mode(), torch.jit.optimized_execution(False), warnings.catch_warnings():
        # What the package's head uses inside of itself; nothing that who imports could change.
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        yield


def read_torchscript(
    path: Path, name: str, said: Mapping[str, Any]
) -> tuple[dict[str, NDArray[np.generic]], Facts, TorchScriptNetwork, tuple[str, ...]]:
    """Give tensors, facts, the runnable network and notes; `said` is what an rdf.yaml beside it says.

    Raises `ModelRefused`, and `ImportNeedsMore` without torch.
    """
    torch = torch_module()
    try:
        script = torch.jit.load(str(path), map_location="cpu").eval()
    except (RuntimeError, ValueError, OSError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelRefused(f"'{path.name}' is no TorchScript file that can be loaded: {first}") from error
    if not hasattr(script, "fcn") or not hasattr(script, "pixel_classifier"):
        raise ModelRefused(f"'{path.name}' is TorchScript, but no InstanSeg: it has no 'fcn' and 'pixel_classifier'.")
    state = {key: value.detach().float().numpy() for key, value in script.state_dict().items()}
    numbers = _numbers(script)
    own = _positive(getattr(script, "pixel_size", None))
    notes: tuple[str, ...] = ()
    if own and said.get("mpp") and abs(own - said["mpp"]) > 1e-6:
        notes = (f"rdf.yaml says {said['mpp']} µm per pixel, the TorchScript file {own}; the file's own was taken.",)
    both = bool(getattr(script, "cells_and_nuclei", False))
    facts = Facts(
        name=str(said.get("name", name)),
        mpp=own or said.get("mpp"),
        licence=said.get("licence"),
        version=said.get("version"),
        percentiles=said.get("percentiles", Facts("").percentiles),
        objects=_CLASSES if both else _CLASSES[:1],
        **numbers,
    )
    return state, facts, TorchScriptNetwork(script), notes


def _numbers(script: Any) -> dict[str, Any]:  # noqa: ANN401 - a scripted module
    """Thresholds and sizes: attributes of newer files, defaults of `forward` in older ones."""
    defaults = {argument.name: argument.default_value for argument in script.forward.schema.arguments}
    wanted = {
        "window": ("window_size", int),
        "peak_distance": ("peak_distance", int),
        "seed_threshold": ("seed_threshold", float),
        "mask_threshold": ("mask_threshold", float),
        "overlap_threshold": ("overlap_threshold", float),
        "foreground_threshold": ("fg_threshold", float),
        "min_size": ("min_size", int),
    }
    found = {}
    for ours, (theirs, kind) in wanted.items():
        value = getattr(script, _HEAD_PREFIX + theirs, None)
        if value is None:
            value = defaults.get(theirs)
        if isinstance(value, int | float):
            found[ours] = kind(value)
    return found


def _positive(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and value > 0 else None
