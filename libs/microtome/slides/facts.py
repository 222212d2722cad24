"""What a slide says about itself.

Promises: plain frozen values that survive a round trip through JSON.
Refuses: to guess; what the file does not say is `None` or "unknown", and `notes` say why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

MppSource = Literal["vendor", "resolution_tag", "unknown"]
Stain = Literal["brightfield", "fluorescence"]

# Outside of this range a "pixel size" is a printing resolution (72 dpi is 353 µm/px) or a mistake.
PLAUSIBLE_MPP = (0.05, 20.0)


@dataclass(frozen=True, slots=True)
class LevelFacts:
    """One level of the pyramid, in pixels; `downsample` is level-0 pixels per pixel of this level."""

    width: int
    height: int
    downsample: float


@dataclass(frozen=True, slots=True)
class SlideFacts:
    """What is recorded of a slide. `mpp` is µm per level-0 pixel, the mean of x and y."""

    sha256: str
    size_bytes: int
    vendor: str
    width: int
    height: int
    levels: tuple[LevelFacts, ...]
    mpp: float | None
    mpp_source: MppSource
    objective_power: float | None
    stain: Stain
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The facts as JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SlideFacts:
        """The facts that `to_json` wrote."""
        levels = tuple(LevelFacts(**level) for level in value["levels"])
        return cls(**{**value, "levels": levels, "notes": tuple(value["notes"])})


@dataclass(frozen=True, slots=True)
class PixelSize:
    """A pixel size in µm per pixel, where it comes from, and what is to be said about it."""

    mpp: float | None
    source: MppSource
    notes: tuple[str, ...] = ()


def judge_pixel_size(mpp_x: float | None, mpp_y: float | None, source: MppSource) -> PixelSize:
    """The mean of both axes, or unknown with a note when it is missing, implausible or not square."""
    if mpp_x is None and mpp_y is None:
        return PixelSize(None, "unknown")
    x = mpp_x if mpp_x is not None else mpp_y
    y = mpp_y if mpp_y is not None else mpp_x
    assert x is not None
    assert y is not None
    low, high = PLAUSIBLE_MPP
    # The comparison also refuses NaN.
    if not (low <= x <= high and low <= y <= high):
        note = f"The recorded pixel size {x:.4g} x {y:.4g} µm is not one of a microscope and is ignored."
        return PixelSize(None, "unknown", (note,))
    if abs(x - y) > 0.05 * min(x, y):
        note = f"Pixels are not square ({x:.4g} x {y:.4g} µm); give the pixel size to use."
        return PixelSize(None, "unknown", (note,))
    return PixelSize((x + y) / 2, source)
