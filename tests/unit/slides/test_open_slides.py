"""Open slides share what they decoded: a process that has seen many needs no more memory than one that saw few."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from microtome.slides.synthetic import write_synthetic_slide

ROOT = Path(__file__).parents[3]
COPIES = 8

# In a process of its own: pytest's has memory to reuse.
READ_ALL = """
import json, sys
from pathlib import Path
import psutil
from microtome.slides.opening import cached_slide, read_block
used = []
for path in sorted(Path(sys.argv[1]).glob("copy-*.tif")):
    for y in range(0, 2048, 512):
        read_block(cached_slide(path), 0, 0, y, 2048, 512)
    used.append(psutil.Process().memory_info().rss / 2**20)
print(json.dumps(used))
"""


def test_memory_does_not_grow_with_the_number_of_open_slides(tmp_path: Path) -> None:
    write_synthetic_slide(tmp_path / "slide.tif", size=2048, seed=0)
    for number in range(COPIES):
        shutil.copy(tmp_path / "slide.tif", tmp_path / f"copy-{number}.tif")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "libs")}
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL, str(tmp_path)], env=environment, check=True, capture_output=True
    )
    used = json.loads(done.stdout)
    assert len(used) == COPIES
    # 16 MB of pixels each; the shared cache is full after two.
    assert used[-1] - used[1] < 24
