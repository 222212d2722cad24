"""All engines behind one door: `open_engine(model, wish, threads)`.

Promises: the engine that was asked for, or an error that names those that are there; with `auto` the fastest one that
finds the same cells as fp32 on this machine, and a note with the number. Refuses: to fall back in silence.
"""

from __future__ import annotations

from microtome.segmentation.engines.opening import available_engines, open_engine

__all__ = ["available_engines", "open_engine"]
