"""Where pixels wait for the network, and where the cells of finished tiles lie.

Promises: what is read is whole (files appear by rename), and a key that exists never changes its
meaning. Refuses: to carry anything over the bus; messages hold keys of this package.
"""

from microtome.tilestore.bounding import BoundedResults
from microtome.tilestore.pixels import LocalPixelStore, PixelsGone, PixelStore, attempt_prefix, pixel_key
from microtome.tilestore.results import ResultGone, ResultStore

__all__ = [
    "BoundedResults",
    "LocalPixelStore",
    "PixelStore",
    "PixelsGone",
    "ResultGone",
    "ResultStore",
    "attempt_prefix",
    "pixel_key",
]
