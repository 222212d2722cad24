"""Built-in pictures on which a model is tried.

Promises: the same pixels on every machine; nuclei dark on bright tissue, and the same bright on dark, for models of
either kind. Refuses: to say how good a model is.
"""

from __future__ import annotations

import numpy as np

from microtome.segmentation.engines.picture import Picture, judgement_pictures
from microtome.segmentation.model import Model
from microtome.segmentation.normalisation import Histogram, Normalisation


def pictures(model: Model) -> list[Picture]:
    """Give a bright-field and a dark-field picture at the model's pixel size."""
    bright = judgement_pictures(model)[0]
    return [bright, _inverted(bright, model)]


def _inverted(picture: Picture, model: Model) -> Picture:
    pixels = np.ascontiguousarray(255 - picture.pixels)
    low, scale = Normalisation.from_histogram(Histogram.of(pixels[0]), model.percentiles).arrays()
    return Picture(pixels, low[None], scale[None])
