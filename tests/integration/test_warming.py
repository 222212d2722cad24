"""A process that was warmed asks for no more memory for its first tiles; one that was not does."""

from __future__ import annotations

import subprocess
import sys

import pytest

from microtome.segmentation.engines import available_engines

ENGINE = "openvino-cpu-fp32"
EDGE, SMALLER = 1024, (640, 768, 896)
# A warm process was seen to take 12 MB more for the three, kernels and pixels; another one 535 MB.
MUCH_MB = 80

SCRIPT = f"""
from microtome.heap import keep_freed_memory
keep_freed_memory()
import sys
from pathlib import Path
import numpy as np
from microtome.segmentation.engines import open_engine
from microtome.segmentation.grid import Rect
from microtome.segmentation.model import load_model
from microtome.segmentation.warming import warm_engine

def peak_kb():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])

model = load_model("embedded")
engine = open_engine(model, "{ENGINE}", threads=2)
edges = {SMALLER}
warm_engine(engine, int(sys.argv[1]))
before = peak_kb()
for edge in edges:
    part = Rect(96, 96, edge - 192, edge - 192)
    pixels = np.full((1, edge, edge, 3), 200, np.uint8)
    engine.infer_part(pixels, np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32), part)
print((peak_kb() - before) / 1024)
"""


def grown_mb(warmed: int) -> float:
    """By how much tiles of several shapes raise the peak memory of a process warmed for tiles of that edge."""
    command = [sys.executable, "-c", SCRIPT, str(warmed)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads its peak memory from /proc")
def test_first_tiles_of_a_warm_process_ask_for_no_more_memory() -> None:
    if reason := available_engines()[ENGINE]:
        pytest.skip(reason)
    assert grown_mb(warmed=EDGE) < MUCH_MB
    assert grown_mb(warmed=256) > MUCH_MB, "the measure sees memory that is asked for"
