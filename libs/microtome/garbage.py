"""Short pauses in a process that remembers much.

Promises: the collector looks at what is new, not at everything that is remembered: a full collection of a fold with
thousands of workflows stands the process still for a second. What becomes garbage in cycles later is found all the
same, when the process has nothing else to do, or at the latest after hours.
Refuses: to switch the collector off.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Between two looks at everything, and so long one may be put off.
TIDY_S, PUT_OFF_S = 600.0, 6 * 3600.0
# A process that used less of a core over so long has nothing else to do.
_QUIET_SHARE, _LOOK_S = 0.02, 1.0


@contextmanager
def settled(tidy_s: float = TIDY_S, put_off_s: float = PUT_OFF_S, look_s: float = _LOOK_S) -> Iterator[None]:
    """What is alive now, and what each full collection leaves alive, is looked at again only every `tidy_s` seconds.

    If the process is busy then, when it used next to no processor time for `look_s`, or after `put_off_s`.
    """
    gc.collect()
    gc.freeze()
    gc.callbacks.append(_freeze)
    over = threading.Event()
    tidying = threading.Thread(target=_tidy, args=(over, tidy_s, put_off_s, look_s), name="garbage", daemon=True)
    tidying.start()
    try:
        yield
    finally:
        over.set()
        tidying.join()
        gc.callbacks.remove(_freeze)
        gc.unfreeze()


def _tidy(over: threading.Event, tidy_s: float, put_off_s: float, look_s: float) -> None:
    looked = time.monotonic()
    while not over.wait(tidy_s):
        while not _quiet(over, look_s) and time.monotonic() - looked < put_off_s:
            if over.is_set():
                return
        # What is left is settled by the callback.
        gc.unfreeze()
        gc.collect()
        looked = time.monotonic()


def _quiet(over: threading.Event, look_s: float) -> bool:
    began = time.process_time()
    over.wait(look_s)
    return time.process_time() - began < _QUIET_SHARE * look_s


def _freeze(phase: str, about: dict[str, Any]) -> None:
    if phase == "stop" and about["generation"] == 2:
        gc.freeze()
