"""What must hold: workflows, seats, slots and who may start next.

Promises: pure functions on frozen values; no I/O, no clock, no randomness. State is the fold of the events.
Refuses: to import anything but the standard library, the contracts and the errors.
"""

from __future__ import annotations
