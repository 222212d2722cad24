"""What a measurement was taken on, and what processes cost."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

from microtome.segmentation.engine import usable_cores


def facts() -> dict[str, str | int | float]:
    """The machine, and how busy others kept it."""
    return {
        "cpu": _cpu_name(),
        "cores": usable_cores(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_1min": round(os.getloadavg()[0], 2),
    }


def wait_until_idle(limit_s: float = 20.0, busy: float = 0.1) -> None:
    """Return when the cores were idle for half a second but for a share of `busy`, at the latest after `limit_s`."""
    until = time.monotonic() + limit_s
    while psutil.cpu_percent(interval=0.5) > 100 * busy and time.monotonic() < until:
        pass


def _cpu_name() -> str:
    if not Path("/proc/cpuinfo").is_file():
        return platform.processor() or platform.machine()
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def family(pid: int) -> list[psutil.Process]:
    """A process and all that descend from it."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system seconds of these processes and their descendants, also of those that have ended."""
    total = 0.0
    for pid in pids:
        for process in family(pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
    return total


def peak_rss_mb(process: psutil.Process) -> float:
    """The largest resident set a process ever had; the one it has now where the system tells no more (macOS)."""
    if not Path("/proc/self/status").is_file():
        return float(process.memory_info().rss / 2**20)
    status = Path(f"/proc/{process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def peaks(pids: dict[str, int]) -> dict[str, float]:
    """Peak resident MB of each service; where it has children that did work, of these as `<name>.children` in sum."""
    found: dict[str, float] = {}
    for name, pid in pids.items():
        own, *children = family(pid)
        found[name] = round(peak_rss_mb(own), 1)
        if children:
            found[f"{name}.children"] = round(sum(peak_rss_mb(child) for child in children), 1)
    return found
