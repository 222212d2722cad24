"""Memory that a process keeps for its next tile.

Promises: what was freed is used again before the system is asked for more. Left alone, the C library maps each array of
many megabytes anew and gives it back, and the system clears every page of it, tile after tile: a twelfth of the
processor time of a slide that is computed in bytes. What is free at the heap's end beyond `KEPT_BYTES` goes back.
Refuses: to change anything where the C library is not glibc.
"""

from __future__ import annotations

import ctypes

# As much as a large tile's arrays take, besides what the network holds.
KEPT_BYTES = 512 << 20
# From malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Do so from now on, in all threads; call it before there are any. False where nothing could be changed."""
    try:
        mallopt, _ = (getattr(ctypes.CDLL(None), name) for name in ("mallopt", "gnu_get_libc_version"))
    except (AttributeError, OSError, TypeError):
        return False
    # Arenas of threads hold 64 MB at most, and what is larger would be mapped after all: so there is one for all.
    wished = ((_ARENA_MAX, 1), (_TRIM_THRESHOLD, KEPT_BYTES), (_MMAP_MAX, 0))
    done = [bool(mallopt(name, value)) for name, value in wished]
    return all(done)
