"""Named places at which a process can be made to die, for tests of what survives.

Promises: every place has a name here, and nowhere else; without `MICROTOME_CRASH_POINT` a place costs one comparison.
With `MICROTOME_CRASH_POINT=name` or `name:3` the process kills itself with SIGKILL, as a power cut would, when it comes
to the place for the first or third time. With `MICROTOME_CRASH_MARK=path` too, only the process that creates that file
dies, so that its successor lives, and the file proves that the place was reached.
Refuses: unknown names, with a `ConfigurationError` at start (`check`): a campaign that kills nothing proves nothing.
"""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from microtome.errors import ConfigurationError

POINT = "MICROTOME_CRASH_POINT"
MARK = "MICROTOME_CRASH_MARK"


class CrashPoint(StrEnum):
    """All places, by the service that comes to them."""

    GATEWAY_AFTER_COMMIT_BEFORE_ANSWER = "gateway-after-commit-before-answer"

    SCHEDULER_BEFORE_APPEND = "scheduler-before-append"
    # The same as after the commit and before the publish: the relay reads what was appended.
    SCHEDULER_AFTER_APPEND_BEFORE_FOLD = "scheduler-after-append-before-fold"
    RELAY_AFTER_PUBLISH_BEFORE_CHECKPOINT = "relay-after-publish-before-checkpoint"

    TILER_AFTER_LEASE = "tiler-after-lease"
    TILER_AFTER_PLAN_APPEND = "tiler-after-plan-append"
    TILER_AFTER_TILES_WRITTEN_BEFORE_PUBLISH = "tiler-after-tiles-written-before-publish"
    TILER_BEFORE_HAND_OVER = "tiler-before-handover"
    TILER_AFTER_HAND_OVER_BEFORE_PUBLISH = "tiler-after-handover-before-publish"

    INFERENCE_BEFORE_RESULT = "inference-before-result"
    INFERENCE_AFTER_RESULT_BEFORE_ACK = "inference-after-result-before-ack"
    INFERENCE_AFTER_ACK_BEFORE_TELL = "inference-after-ack-before-tell"

    MERGER_AFTER_LEASE = "merger-after-lease"
    MERGER_AFTER_ARTIFACTS_BEFORE_RENAME = "merger-after-artifacts-before-rename"
    MERGER_AFTER_RENAME_BEFORE_APPEND = "merger-after-rename-before-append"
    MERGER_AFTER_APPEND_BEFORE_ACK = "merger-after-append-before-ack"

    @property
    def service(self) -> str:
        """The service whose process dies there; the relay is a part of the scheduler."""
        return "scheduler" if self.value.startswith("relay-") else self.value.partition("-")[0]


@dataclass(slots=True)
class _Armed:
    """Where this process is to die: the `nth` time that it comes to `point`."""

    point: CrashPoint
    nth: int
    mark: Path | None
    seen: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


def _read() -> _Armed | None:
    wish = os.environ.get(POINT, "")
    if not wish:
        return None
    name, _, nth = wish.partition(":")
    try:
        point = CrashPoint(name)
    except ValueError:
        known = ", ".join(CrashPoint)
        raise ConfigurationError(f"{POINT}: there is no crash point {name!r}. There are: {known}.") from None
    if nth and (not nth.isdecimal() or int(nth) < 1):
        raise ConfigurationError(f"{POINT}: {nth!r} in {wish!r} does not count from 1.")
    mark = os.environ.get(MARK)
    return _Armed(point, int(nth or 1), Path(mark) if mark else None)


_armed: _Armed | None = None


def check() -> None:
    """Read what the environment says; called once when a process starts. Raises `ConfigurationError`."""
    global _armed  # noqa: PLW0603 - one environment, one process, one place to die
    _armed = _read()


def crash_point(point: CrashPoint) -> None:
    """Die here if this is the place and the time."""
    if _armed is None or point is not _armed.point:
        return
    with _armed.lock:
        _armed.seen += 1
        if _armed.seen < _armed.nth or not _marked(_armed.mark):
            return
    os.kill(os.getpid(), signal.SIGKILL)


def _marked(mark: Path | None) -> bool:
    """Leave the mark; say whether it was not there before."""
    if mark is None:
        return True
    try:
        with mark.open("xb"):
            return True
    except FileExistsError:
        return False
