"""This project's head on the same cases."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from microtome.segmentation.head import Coordinates, Instances, find_instances
from microtome.segmentation.model import Model, PixelClassifier
from tests.parity.cases import Case, Suite


def model_for(case: Case, suite: Suite, model: Model) -> Model:
    """`model` with the case's numbers in place of its own."""
    settings = case.settings
    return replace(
        model,
        window=settings.window,
        largest_window=None,
        peak_distance=settings.peak_distance,
        seed_threshold=settings.seed_threshold,
        mask_threshold=settings.mask_threshold,
        overlap_threshold=settings.overlap_threshold,
        pixel_classifier=PixelClassifier(5, np.ascontiguousarray(suite.classifiers[case.classifier], np.float32)),
    )


def instances(case: Case, suite: Suite, model: Model) -> Instances:
    """What our head finds where it has to do as the package does."""
    assert case.logits is not None
    height, width = case.logits.shape[1:]
    coordinates = Coordinates(suite.coordinates[width], suite.coordinates[height])
    return find_instances(case.logits, model_for(case, suite, model), regrow=False, coordinates=coordinates)
