"""The messages of Microtome, generated from `proto/`, and their two encodings.

Promises: one source of truth; `messages` is written by `generate`, never by hand.
Refuses: to hold behaviour. What a message means is the domain's business.
"""

from __future__ import annotations
