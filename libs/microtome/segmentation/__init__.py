"""The bare engine: pixels of a slide in, cells out.

Promises: a tiled run gives the same cells as one run over the whole image; nothing needs merging.
Refuses: to know of NATS, Postgres, workflows or slide formats. It reads through `run.RegionReader`.
"""

from __future__ import annotations
