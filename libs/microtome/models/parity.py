"""Whether the ONNX file computes what the weights mean, and our head what the model's own head does.

Promises: numbers. Logits are compared with the source's own network where it can be run (then the rebuilt network is,
too), otherwise with the network rebuilt in PyTorch, on several shapes; cells on built-in pictures, found by our head
from both logits; and, where the source has a head of its own, pixel by pixel with what that head finds.
Refuses: a model that is not equal (`Parity.require`). Needs `torch`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microtome.models.graph import CLAMP, largest_logit_at, no_seed
from microtome.models.pictures import pictures
from microtome.models.pytorch import torch_module
from microtome.models.refusals import ModelRefused
from microtome.models.sources import OwnNetwork
from microtome.models.structure import EMBEDDING, MAX_SIGMA, RGB, Structure, Weights
from microtome.segmentation.engine import OnnxRuntimeEngine
from microtome.segmentation.engines.picture import Picture
from microtome.segmentation.head import Instances, find_instances
from microtome.segmentation.model import Model

LOGIT_TOLERANCE = 1e-4
# Of the pixels in cells, how many may be another's: two neighbouring pixels are as good a seed but for the last bits.
PIXEL_TOLERANCE = 5e-3
_SHAPES = ((1, 256, 256), (2, 128, 192), (1, 384, 272), (3, 64, 208))
# The size at which the package's coordinates step as they did in training.
_TRAINED = 256


@dataclass(frozen=True, slots=True)
class Parity:
    """How equal. Differences of logits are the largest absolute ones; `None`: there was nothing to compare with."""

    compared_with: str
    logits: float
    rebuilt: float | None
    cells: int
    pixels_in_cells: int
    pixels_different: int
    own_head_cells: int | None
    own_head_pixels_different: int | None

    def require(self) -> None:
        """Raise `ModelRefused` if any difference is larger than rounding."""
        if self.rebuilt is not None and not self.rebuilt <= LOGIT_TOLERANCE:
            raise ModelRefused(
                f"The network rebuilt from the weights differs by {self.rebuilt:.2g} from the file's own: it has parts "
                "that its weights do not show (another activation, another way of joining). It is not supported."
            )
        if not self.logits <= LOGIT_TOLERANCE:
            raise ModelRefused(
                f"The exported network differs by {self.logits:.2g} from the original, more than {LOGIT_TOLERANCE:g}; "
                "nothing was installed."
            )
        for different in (self.pixels_different, self.own_head_pixels_different or 0):
            if different > PIXEL_TOLERANCE * max(self.pixels_in_cells, 1000):
                raise ModelRefused(
                    f"The cells of the exported network differ from the original's in {different} pixels of "
                    f"{self.pixels_in_cells}; nothing was installed. Perhaps the model's head is of an older kind."
                )

    def as_json(self) -> dict[str, Any]:
        """Give what `about.json` holds."""
        return asdict(self)


def measure(
    model: Model,
    structure: Structure,
    weights: Weights,
    object_class: int,
    foreground: float,
    own: OwnNetwork | None,
) -> Parity:
    """Compare `model`'s ONNX file with the network of `structure` and `weights`, and with the source's `own`."""
    engine = OnnxRuntimeEngine(model)
    rebuilt = _Rebuilt(structure, weights)
    original: OwnNetwork | _Rebuilt = own or rebuilt
    largest, between = 0.0, 0.0
    rng = np.random.default_rng(0)
    for shape in _SHAPES:
        pixels = rng.integers(0, 256, (*shape, RGB)).astype(np.uint8)
        low = rng.uniform(0, 80, (shape[0], RGB)).astype(np.float32)
        scale = (1 / rng.uniform(90, 250, (shape[0], RGB))).astype(np.float32)
        images = normalised(pixels, low, scale)
        theirs = original.logits(images)
        largest = max(
            largest, _difference(engine.infer(pixels, low, scale), theirs, structure, object_class, foreground)
        )
        if own is not None:
            between = max(between, float(np.abs(rebuilt.logits(images) - theirs).max()))
    cells = area = different = 0
    tried = pictures(model)
    for picture in tried:
        images = normalised(picture.pixels, picture.low, picture.scale)
        ours = find_instances(engine.infer(picture.pixels, picture.low, picture.scale)[0], model)
        whole = original.logits(images)[0]
        theirs_found = find_instances(of_class(whole, structure, object_class, foreground), model)
        cells += theirs_found.label.size
        area += int(np.count_nonzero(theirs_found.labels))
        different += int(np.count_nonzero(_seeds(ours) != _seeds(theirs_found)))
    head = (None, None) if own is None else _own_head(model, tried, structure, object_class, foreground, own)
    return Parity(
        compared_with="the source's own network" if own is not None else "the network rebuilt in PyTorch",
        logits=largest,
        rebuilt=between if own is not None else None,
        cells=cells,
        pixels_in_cells=area,
        pixels_different=different,
        own_head_cells=head[0],
        own_head_pixels_different=head[1],
    )


def normalised(pixels: NDArray[np.uint8], low: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """Give what the graph computes of uint8 [b, h, w, 3] before the network: float32 [b, 3, h, w]."""
    relative = (pixels.astype(np.float32) - low[:, None, None]) * scale[:, None, None]
    return np.ascontiguousarray(np.clip(relative, *CLAMP).astype(np.float32).transpose(0, 3, 1, 2))


def of_class(
    whole: NDArray[np.float32], structure: Structure, object_class: int, foreground: float
) -> NDArray[np.float32]:
    """Give the five channels that the head takes, of all channels [k, h, w] that the network has."""
    shape, seeds, anything = _parts(whole, structure, object_class)
    if anything is not None:
        seeds = np.where(anything > largest_logit_at(foreground), seeds, no_seed())
    return np.concatenate([shape, seeds[None]])


def _parts(
    whole: NDArray[np.float32], structure: Structure, object_class: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32] | None]:
    """Coordinates and sigmas [4, h, w], seed map [h, w], and the second seed map if there is one."""
    each = sum(structure.heads) // structure.object_classes
    mine = whole[each * object_class : each * (object_class + 1)]
    known = EMBEDDING + structure.n_sigma
    absent = np.zeros((MAX_SIGMA - structure.n_sigma, *whole.shape[1:]), np.float32)
    return np.concatenate([mine[:known], absent]), mine[known], mine[known + 1] if structure.dim_seeds == 2 else None


def _difference(
    ours: NDArray[np.float32], wholes: NDArray[np.float32], structure: Structure, object_class: int, foreground: float
) -> float:
    """Largest difference; where the second seed map is on the edge of its threshold, either answer is right."""
    largest = 0.0
    for mine, whole in zip(ours, wholes, strict=True):
        shape, seeds, anything = _parts(whole, structure, object_class)
        largest = max(largest, float(np.abs(mine[:4] - shape).max()))
        if anything is not None:
            least = largest_logit_at(foreground)
            on_edge = np.abs(anything - least) < LOGIT_TOLERANCE
            seeds = np.where(anything > least, seeds, no_seed())
            seeds = np.where(on_edge, mine[4], seeds)
        largest = max(largest, float(np.abs(mine[4] - seeds).max()))
    return largest


def _seeds(found: Instances) -> NDArray[np.int32]:
    """Each pixel's seed, as 1 + its place in the image: unlike labels, it does not depend on how many came before."""
    height, width = found.labels.shape
    places = np.zeros(height * width + 1, np.int32)
    places[found.label] = found.seed[:, 0] * width + found.seed[:, 1] + 1
    return places[found.labels]


def _own_head(
    model: Model,
    tried: Sequence[Picture],
    structure: Structure,
    object_class: int,
    foreground: float,
    own: OwnNetwork,
) -> tuple[int, int]:
    """Cells that the source's head finds, and pixels in which ours, given the same logits, has another."""
    cells = different = 0
    for picture in tried:
        images = normalised(picture.pixels, picture.low, picture.scale)
        for crop in _crops(images[0]):
            theirs = own.labels(crop, object_class)
            logits = of_class(own.logits(crop[None])[0], structure, object_class, foreground)
            ours = find_instances(logits, model, regrow=False, coordinates=own.coordinates(*crop.shape[1:])).labels
            cells += int(np.unique(theirs).size - 1)
            different += int(np.count_nonzero(ours != theirs))
    return cells, different


def _crops(image: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """The first and the last square of the size of the training's; the whole image where it is smaller."""
    size = min(_TRAINED, *image.shape[1:])
    return [np.ascontiguousarray(image[:, :size, :size]), np.ascontiguousarray(image[:, -size:, -size:])]


class _Rebuilt:
    """The network rebuilt in PyTorch."""

    def __init__(self, structure: Structure, weights: Weights) -> None:
        torch_module()
        from microtome.models.network import build

        self._network = build(structure, weights)

    def logits(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        torch = torch_module()
        with torch.inference_mode():
            found: NDArray[np.float32] = self._network(torch.from_numpy(images)).numpy()
        return found
