"""What a job's parameters wish for, in the engine's own terms."""

from __future__ import annotations

from microtome.contracts import messages
from microtome.errors import InvalidRequest
from microtome.segmentation.normalisation import Normalisation

GIVEN_NORMALISATION = "The normalisation was given by the user, not measured on the slide."


def given_normalisation(given: messages.Normalisation) -> Normalisation:
    """Return what was given, checked. Raises `InvalidRequest`."""
    if len(given.low) != len(given.high) or len(given.low) != 3:
        raise InvalidRequest("A normalisation has three channels.")
    low_red, low_green, low_blue = given.low
    high_red, high_green, high_blue = given.high
    return Normalisation((low_red, low_green, low_blue), (high_red, high_green, high_blue))
