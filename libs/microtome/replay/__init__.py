"""Travelling through the log: what happened, why, and what would have happened otherwise.

Promises: reads page by page, so that the log may be larger than memory; whatever it says is a fold of the log.
Refuses: to change anything, but for `rebuild`, `import` and `rebase`, which ask first.
"""

from __future__ import annotations
