"""Freed memory is used again: no page of a large array is cleared twice."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

# In a thread, as tiles are computed; larger than anything that malloc would keep of its own accord.
CHILD = """
import resource, sys, threading
from microtome.heap import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def work():
    for turn in range(5):
        block = bytearray(b"x") * (96 << 20)
        del block
        if turn == 0:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


def faults(how: str) -> int:
    """Pages that were touched for the first time in four turns after the first."""
    return int(subprocess.run([sys.executable, "-c", CHILD, how], capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="the C library is not glibc")
def test_a_freed_array_is_used_again() -> None:
    assert faults("keep") < 1000
    # 96 MB four times: this is what is saved.
    assert faults("leave") > 50_000
