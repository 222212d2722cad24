"""Which failures are tried again by themselves: those that may pass, and no other.

The whole list, so that whoever adds an error has to decide.
"""

from __future__ import annotations

import errno
import importlib
import pkgutil
from collections.abc import Iterator

import pytest

import microtome
import services
from microtome.attempts import as_known
from microtome.errors import MachineFailed, MicrotomeError, UnreadableSlide

MAY_PASS = {
    "busy", "concurrency-conflict", "engine-failed", "machine-failed", "no-room", "pixels-gone", "result-gone",
    "unavailable", "worker-lost",
}  # fmt: skip
WORKERS = ("microtome.segmentation", "microtome.slides", "microtome.tilestore", "microtome.tissue",
           "microtome.artifacts", "microtome.bus", "microtome.leases", "services.tiler", "services.inference",
           "services.merger")  # fmt: skip


def _known() -> Iterator[type[MicrotomeError]]:
    """All errors of the packages that workers use."""
    for package in (microtome, services):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module.name.startswith(WORKERS) and not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    found = [MicrotomeError]
    for kind in found:
        found += [each for each in kind.__subclasses__() if each not in found]
    yield from (kind for kind in found if kind.__module__.startswith((*WORKERS, "microtome.errors")))


def test_only_what_may_pass_is_tried_again() -> None:
    assert {kind.code for kind in _known() if kind.transient} == MAY_PASS
    permanent = {kind.code for kind in _known() if not kind.transient}
    assert not permanent & MAY_PASS, "one code is either the one or the other"
    assert {"unreadable-slide", "slide-deleted", "unknown-mpp", "unsuitable-slide", "configuration"} <= permanent


@pytest.mark.parametrize(
    ("error", "code", "transient"),
    [
        (UnreadableSlide("damaged"), "unreadable-slide", False),
        (OSError(errno.ENOSPC, "no space"), "machine-failed", True),
        (MemoryError(), "machine-failed", True),
        (ConnectionResetError(), "machine-failed", True),
        (KeyError("row"), "internal", False),
        (AssertionError("never"), "internal", False),
    ],
)
def test_a_machine_that_gives_out_is_no_fault_of_the_job(error: Exception, code: str, transient: bool) -> None:
    known = as_known(error)
    assert (known.code, known.transient) == (code, transient)
    assert isinstance(known, MachineFailed) is (code == "machine-failed")
