"""What the network is corrected by.

Promises: the two parts of InstanSeg's loss (Goldsborough et al. 2024). Seeds: the absolute difference between the seed
logit and the scaled distance map. Instances: around points inside each object, the pixel classifier must give the
object's pixels and no others, by a soft dice loss and by Lovász's hinge (Berman et al. 2018), whose minimum is that of
the intersection over union. Several points of one object are asked, peaks of the seed map and random ones, so that each
finds the whole object: two seeds of one nucleus then become one cell. All objects of a batch are computed at once.
Pixels that are not `certain` are left out of both.
Refuses: nothing; a batch without objects has no second part.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from microtome.models.unet import PixelClassifier
from microtome.training.geometry import DISTANCE_SCALE

# The faintest peak that is asked, as a logit, and how deep in an object the other points lie.
_FAINTEST, _INNER = -4.0, 0.35


@dataclass(frozen=True, slots=True)
class Terms:
    """Weights and sizes of the loss. `window`: edge of the square around a point; `points`: so many an image."""

    seed: float = 1.0
    dice: float = 1.5
    lovasz: float = 0.75
    window: int = 48
    points: int = 28
    coordinate_step: float = 0.25 * 256 / 255
    distance: float = float(DISTANCE_SCALE)


def seed_loss(logit: torch.Tensor, distance: torch.Tensor, certain: torch.Tensor, terms: Terms) -> torch.Tensor:
    """Mean absolute difference over certain pixels; all [b, h, w]."""
    wrong = (logit - (distance - 0.5) * terms.distance).abs()
    return (wrong * certain).sum() / certain.sum().clamp(min=1)


def choose_points(
    logit: torch.Tensor,
    labels: torch.Tensor,
    distance: torch.Tensor,
    certain: torch.Tensor,
    terms: Terms,
    generator: torch.Generator,
) -> torch.Tensor:
    """Points inside objects, int64 [n, 3] of (image, y, x): peaks of the seed map, and any pixels of the inner parts.

    Of an image's points up to two thirds are peaks, drawn by lot where there are more; the rest may be anywhere.
    """
    inside = (labels > 0) & (certain > 0)
    peak = (functional.max_pool2d(logit[:, None], 7, 1, 3)[:, 0] == logit) & (logit > _FAINTEST) & inside
    inner = inside & (distance > _INNER) & ~peak
    lot = torch.rand(logit.shape, generator=generator)
    width = logit.shape[2]
    chosen = []
    for image in range(logit.shape[0]):
        peaks = torch.nonzero(peak[image].flatten())[:, 0]
        peaks = peaks[lot[image].flatten()[peaks].argsort(descending=True)][: terms.points * 2 // 3]
        others = torch.nonzero(inner[image].flatten())[:, 0]
        if others.numel():
            others = others[torch.randint(others.numel(), (terms.points - peaks.numel(),), generator=generator)]
        at = torch.cat([peaks, others])
        chosen.append(torch.stack([torch.full_like(at, image), at // width, at % width], dim=1))
    return torch.cat(chosen)


def instance_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    certain: torch.Tensor,
    points: torch.Tensor,
    classifier: PixelClassifier,
    terms: Terms,
) -> torch.Tensor:
    """Mean over points of dice and Lovász losses in the window around each; logits [b, 5, h, w], the rest [b, h, w]."""
    if points.shape[0] == 0:
        return logits.sum() * 0
    height, width = labels.shape[1:]
    edge = min(terms.window, height, width)
    top = (points[:, 1] - edge // 2).clamp(0, height - edge)
    left = (points[:, 2] - edge // 2).clamp(0, width - edge)
    along = torch.arange(edge)
    rows, columns = top[:, None] + along, left[:, None] + along
    flat = (points[:, 0, None, None] * height + rows[:, :, None]) * width + columns[:, None, :]
    start = (points[:, 0] * height + points[:, 1]) * width + points[:, 2]
    fields = (torch.sigmoid(logits[:, :2]) - 0.5) * 8
    features = torch.cat([fields, logits[:, 2:4]], dim=1).permute(0, 2, 3, 1).reshape(-1, 4)
    around = features.index_select(0, flat.flatten()).view(-1, edge, edge, 4)
    origin = features.detach().index_select(0, start)[:, None, None, :2]
    step_x = (columns - points[:, 2, None]).float() * terms.coordinate_step
    step_y = (rows - points[:, 1, None]).float() * terms.coordinate_step
    steps = torch.stack([step_x[:, None, :].expand(-1, edge, -1), step_y[:, :, None].expand(-1, -1, edge)], dim=3)
    asked = torch.cat([around[..., :2] - origin + steps, around[..., 2:]], dim=3)
    score = classifier(asked.view(-1, 4)).view(-1, edge * edge)
    mine = labels.flatten().index_select(0, start)
    truth = (labels.flatten()[flat] == mine[:, None, None]).view(-1, edge * edge).float()
    weight = certain.flatten()[flat].view(-1, edge * edge)
    return terms.dice * _dice(score, truth, weight) + terms.lovasz * _lovasz(score, truth, weight)


def _dice(score: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    chance = torch.sigmoid(score) * weight
    truth = truth * weight
    both = (chance * truth).sum(1)
    return (1 - (2 * both + 1) / (chance.sum(1) + truth.sum(1) + 1)).mean()


def _lovasz(score: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Lovász's extension of 1 - IoU, per row, of hinge errors; uncertain pixels have none and come last."""
    error = (1 - score * (2 * truth - 1)) * weight - (1 - weight) * 1e4
    error, order = error.sort(dim=1, descending=True)
    sorted_truth = (truth * weight).gather(1, order)
    total = sorted_truth.sum(1, keepdim=True)
    missed = total - sorted_truth.cumsum(1)
    union = total + (1 - sorted_truth).cumsum(1)
    jaccard = 1 - missed / union
    gradient = torch.cat([jaccard[:, :1], jaccard[:, 1:] - jaccard[:, :-1]], dim=1)
    return (functional.relu(error) * gradient.detach()).sum(1).mean()
