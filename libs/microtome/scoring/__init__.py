"""How well objects that were found agree with objects that are true: matching by overlap and the scores made of it."""

from __future__ import annotations

from microtome.scoring.matching import Matching, match
from microtome.scoring.scores import Scores, Tally, scores

__all__ = ["Matching", "Scores", "Tally", "match", "scores"]
