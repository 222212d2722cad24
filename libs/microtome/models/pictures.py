"""Built-in pictures on which a model is tried.

Promises: the same pixels on every machine; nuclei dark on bright tissue, and the same bright on dark, for models of
either kind. Refuses: to say how good a model is.
"""

from __future__ import annotations

import numpy as np

from microtome.segmentation.engines.picture import Picture, judgement_pictures
from microtome.segmentation.model import Model
from microtome.segmentation.normalisation import Histogram, Normalisation

# Of the painted tissue; some hundred nuclei, and PyTorch on one thread has to get through it.
_EDGE = 384


def pictures(model: Model) -> list[Picture]:
    """Give a bright-field and a dark-field picture at the model's pixel size."""
    whole = judgement_pictures(model)[0]
    middle = whole.pixels[:, slice(*_middle(whole.pixels.shape[1])), slice(*_middle(whole.pixels.shape[2]))]
    bright = Picture(np.ascontiguousarray(middle), whole.low, whole.scale)
    return [bright, _inverted(bright, model)]


def _inverted(picture: Picture, model: Model) -> Picture:
    pixels = np.ascontiguousarray(255 - picture.pixels)
    low, scale = Normalisation.from_histogram(Histogram.of(pixels[0]), model.percentiles).arrays()
    return Picture(pixels, low[None], scale[None])


def _middle(edge: int) -> tuple[int, int]:
    first = max(0, edge - _EDGE) // 2
    return first, first + min(edge, _EDGE)
