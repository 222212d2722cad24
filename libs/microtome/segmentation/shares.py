"""Work on many objects, shared out among threads.

Promises: results come in the order of the objects, whatever the number of threads; what one of them raises is raised.
Refuses: to make anything faster that does not let other threads run, as compiled code does.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar

T = TypeVar("T")

# Objects that are not worth a thread of their own.
FEW = 64


def in_shares(work: Callable[[int, int], T], count: int, threads: int, few: int = FEW) -> list[T]:
    """Return what `work(start, stop)` gives for each part of `count` objects; one part for each of `threads`, or fewer
    where one had less than `few` objects. There is always one.
    """
    parts = max(1, min(threads, count // few))
    ends = [count * part // parts for part in range(parts + 1)]
    if parts == 1:
        return [work(0, count)]
    with ThreadPoolExecutor(parts - 1, thread_name_prefix="share") as others:
        running = [others.submit(work, *span) for span in pairwise(ends[1:])]
        return [work(0, ends[1]), *(future.result() for future in running)]
