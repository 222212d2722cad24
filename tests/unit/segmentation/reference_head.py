"""InstanSeg's head once more, slowly and plainly, from the description of the algorithm: dense windows, all pixels.

It shares no code and no trick with the compiled head: whole-window classifier, flood fills by repeated dilation,
every pair of objects compared over the whole image, components by propagation.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from microtome.segmentation.model import Model

F = np.float32
EIGHT = np.ones((3, 3), bool)


def sigmoid(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return (F(1) / (F(1) + np.exp(-values.astype(np.float64)).astype(F))).astype(F)


def find_peaks(seeds: np.ndarray, distance: int, threshold: float) -> np.ndarray:
    found = []
    for y, x in np.argwhere(seeds > F(threshold)):
        top, left = max(0, y - distance), max(0, x - distance)
        around = seeds[top : y + distance + 1, left : x + distance + 1]
        # argmax gives the first of equal values in scan order.
        if np.argmax(around) == (y - top) * around.shape[1] + (x - left):
            found.append((y, x))
    return np.array(found, int).reshape(-1, 2)


def flood(mask: np.ndarray, start: np.ndarray, limit: int) -> np.ndarray:
    reached = start
    for _ in range(limit):
        grown = ndimage.binary_dilation(reached, EIGHT) & mask
        if (grown == reached).all():
            break
        reached = grown
    return reached


def classify(features: np.ndarray, model: Model) -> np.ndarray:
    n, flat = model.pixel_classifier.hidden, model.pixel_classifier.flat
    cuts = np.cumsum([4 * n, n, n * n, n, n])
    w1, b1, w2, b2, w3, b3 = np.split(flat, cuts)
    hidden = np.zeros((*features.shape[1:], n), F)
    for i in range(n):
        row = w1[4 * i : 4 * i + 4]
        total = row[0] * features[0] + row[1] * features[1] + row[2] * features[2] + row[3] * features[3]
        hidden[..., i] = np.maximum(total + b1[i], F(0))
    out = np.zeros(features.shape[1:], F)
    for i in range(n):
        value = np.zeros(features.shape[1:], F)
        for j in range(n):
            value = value + w2[i * n + j] * hidden[..., j]
        out = out + w3[i] * np.maximum(value + b2[i], F(0))
    return out + b3[0]


def reference_labels(logits: np.ndarray, model: Model) -> np.ndarray:
    """Labels int32 [h, w] of logits float32 [5, h, w]."""
    height, width = logits.shape[1:]
    threshold, edge = F(model.mask_threshold), 2 * model.window
    seeds = find_peaks(logits[4] / F(15) + F(0.5), model.peak_distance, model.seed_threshold)
    field = (sigmoid(logits[:2]) - F(0.5)) * F(8)
    probability = np.zeros((len(seeds), height, width), F)
    for k, (y, x) in enumerate(seeds):
        top = min(max(y, model.window), height - model.window) - model.window
        left = min(max(x, model.window), width - model.window) - model.window
        window = np.s_[top : top + edge, left : left + edge]
        step = F(model.coordinate_step)
        ys, xs = np.mgrid[window].astype(F)
        features = np.stack(
            [
                field[0][window] - field[0, y, x] + (xs - F(x)) * step,
                field[1][window] - field[1, y, x] + (ys - F(y)) * step,
                logits[2][window],
                logits[3][window],
            ]
        )
        p = sigmoid(classify(features, model))
        seed = np.zeros((edge, edge), bool)
        seed[y - top, x - left] = True
        filled = flood(p >= threshold, seed, edge)
        far = ~ndimage.binary_dilation(filled, EIGHT, iterations=3)
        holes = ~flood(~filled, far, edge) & ~filled
        p[~filled] = 0
        p[holes] = threshold
        probability[k][window] = p
    if not len(seeds):
        return np.zeros((height, width), np.int32)
    labels = np.where((probability >= threshold).any(0), np.argmax(probability, 0) + 1, 0)
    masks = (probability >= threshold).reshape(len(seeds), -1).astype(F)
    shared = masks @ masks.T
    area = masks.sum(1)
    with np.errstate(invalid="ignore"):
        joined = shared / (area[:, None] + area[None] - shared) > F(model.overlap_threshold)
    first = np.arange(len(seeds))
    for _ in range(100):
        first = np.array([min(first[k], first[joined[k]].min(initial=first[k])) for k in range(len(seeds))])
    return np.concatenate([[0], first + 1])[labels].astype(np.int32)
