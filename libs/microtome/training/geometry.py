"""Label images at other sizes, and what the network is to say about them.

Promises: an object stays where it is. A pixel of the halved image is the square of four that it stands for, so its
label is what most of the four are; taking every second pixel instead would move every object by a quarter of the new
pixel, and resampling libraries that round towards the corner by half of one.
Refuses: odd sizes.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from microtome.errors import InvalidRequest

# The seed channel's logit is this times (distance - 0.5); the head undoes it.
DISTANCE_SCALE = 15.0


def halved(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Half the size: int32 [2h, 2w] to [h, w], each pixel the commonest of its four; of two and two, the object, and of
    two objects the one that comes first in scan order. Raises `InvalidRequest` for odd sizes.
    """
    if labels.shape[0] % 2 or labels.shape[1] % 2:
        raise InvalidRequest(f"Only an even size can be halved, not {labels.shape}.")
    four = np.stack([labels[0::2, 0::2], labels[0::2, 1::2], labels[1::2, 0::2], labels[1::2, 1::2]])
    votes = 2 * sum((four == other).astype(np.int8) for other in four) + (four > 0)
    return np.take_along_axis(four, votes.argmax(axis=0)[None], axis=0)[0]


def doubled(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Twice the size, each pixel four times: int32 [h, w] to [2h, 2w]."""
    return labels.repeat(2, axis=0).repeat(2, axis=1)


def without_small(labels: NDArray[np.int32], smallest: int) -> NDArray[np.int32]:
    """The same labels without objects of fewer than `smallest` pixels; labels must not be negative."""
    area = np.bincount(labels.ravel())
    area[0] = smallest
    return np.where(area[labels] < smallest, 0, labels).astype(np.int32)


def distance(labels: NDArray[np.int32]) -> NDArray[np.float32]:
    """Distance of each object's pixels to what is not the object, over the object's largest: float32 [h, w], 0 to 1.

    What lies beyond the image's edge is nobody's border.
    """
    out = np.zeros(labels.shape, np.float32)
    height, width = labels.shape
    for label, (rows, columns) in boxes(labels).items():
        y0, y1 = max(0, rows.start - 1), min(height, rows.stop + 1)
        x0, x1 = max(0, columns.start - 1), min(width, columns.stop + 1)
        inside = labels[y0:y1, x0:x1] == label
        if inside.all():
            out[y0:y1, x0:x1] = 1.0
            continue
        far = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        out[y0:y1, x0:x1] += far / far.max()
    return out


def boxes(labels: NDArray[np.int32]) -> dict[int, tuple[slice, slice]]:
    """Bounding box of each positive label."""
    y, x = np.nonzero(labels > 0)
    if y.size == 0:
        return {}
    values, index = np.unique(labels[y, x], return_inverse=True)
    top = np.full(values.size, labels.shape[0])
    left = np.full(values.size, labels.shape[1])
    bottom, right = np.zeros(values.size, np.int64), np.zeros(values.size, np.int64)
    np.minimum.at(top, index, y)
    np.minimum.at(left, index, x)
    np.maximum.at(bottom, index, y + 1)
    np.maximum.at(right, index, x + 1)
    return {
        int(value): (slice(int(top[i]), int(bottom[i])), slice(int(left[i]), int(right[i])))
        for i, value in enumerate(values)
    }


def touching(labels: NDArray[np.int32], reach: int) -> NDArray[np.bool_]:
    """Pixels within about `reach` of where two objects touch: where a split was guessed, it says least."""
    low = np.where(labels > 0, labels, 65535).astype(np.uint16)
    square = np.ones((3, 3), np.uint8)
    largest = cv2.dilate(np.maximum(labels, 0).astype(np.uint16), square)
    smallest = cv2.erode(low, square)
    seam = ((largest != smallest) & (smallest < 65535) & (largest > 0)).astype(np.uint8)
    return cv2.dilate(seam, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)).astype(bool)
