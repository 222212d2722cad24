"""Whether a rectangle of the slide has tissue.

Promises: an answer that depends on the mask and the rectangle alone, never on the grid or on other tiles.
Refuses: to be strict; a tile is skipped only when neither it nor its surroundings have tissue.
"""

from __future__ import annotations

import math

from microtome.tissue.mask import TissueMask


def tile_has_tissue(
    mask: TissueMask, x0: float, y0: float, x1: float, y1: float, *, halo: float = 0.0, min_fraction: float = 0.0
) -> bool:
    """Whether the core `[x0, x1) x [y0, y1)` grown by `halo`, all in level-0 pixels, has tissue.

    Any mask pixel is enough by default; with `min_fraction` at least this share of the grown rectangle.
    """
    share = tissue_fraction(mask, x0 - halo, y0 - halo, x1 + halo, y1 + halo)
    return share > 0 and share >= min_fraction


def tissue_fraction(mask: TissueMask, x0: float, y0: float, x1: float, y1: float) -> float:
    """The share of tissue among the mask pixels that the rectangle touches; 0 outside of the slide."""
    across, down = mask.downsample
    left, right = max(0, math.floor(x0 / across)), min(mask.bits.shape[1], math.ceil(x1 / across))
    top, bottom = max(0, math.floor(y0 / down)), min(mask.bits.shape[0], math.ceil(y1 / down))
    if left >= right or top >= bottom:
        return 0.0
    return float(mask.bits[top:bottom, left:right].mean())
