"""How two runs over one slide differ: which cells both found, which only one, and where they agree least."""

from __future__ import annotations

from microtome.comparison.comparing import Comparison, compare
from microtome.comparison.runs import Run, read_run

__all__ = ["Comparison", "Run", "compare", "read_run"]
