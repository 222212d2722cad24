"""All tests, as two pytest processes side by side: `make test`.

The tests on the live stack mostly wait (for leases to end, for services to start), the others mostly compute; together
they take little longer than the longer half. Each half keeps its own memory of failures, so that `--last-failed` works.
Arguments go to both; arguments that name files go to one plain pytest instead.

Promises: the exit status is 0 only if every test passed; each line says which half it belongs to.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parent
LIVE = ("acceptance", "browser", "chaos")
NOTHING_COLLECTED = 5


def halves() -> dict[str, list[str]]:
    """The folders of each half; a new folder belongs to the second."""
    folders = sorted(path.name for path in TESTS.iterdir() if path.is_dir() and any(path.rglob("test_*.py")))
    return {
        "live": [f"tests/{name}" for name in folders if name in LIVE],
        "rest": [f"tests/{name}" for name in folders if name not in LIVE],
    }


def run(name: str, folders: list[str], arguments: list[str]) -> int:
    """Run one half, with its name before each line."""
    command = [sys.executable, "-m", "pytest", "-o", f"cache_dir=.pytest_cache/{name}", *folders, *arguments]
    child = subprocess.Popen(command, cwd=TESTS.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert child.stdout is not None
    for line in child.stdout:
        print(f"{name} | {line}", end="", flush=True)
    return child.wait()


def main(arguments: list[str]) -> int:
    """Run both halves; return the worse exit status."""
    if any("tests/" in argument for argument in arguments):
        return subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=TESTS.parent, check=False).returncode
    statuses: dict[str, int] = {}
    began = time.monotonic()

    def half(name: str, folders: list[str]) -> None:
        statuses[name] = run(name, folders, arguments)

    threads = [threading.Thread(target=half, args=entry) for entry in halves().items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"both halves: {time.monotonic() - began:.0f} s")
    if set(statuses.values()) == {NOTHING_COLLECTED}:
        return NOTHING_COLLECTED
    return max(status for status in statuses.values() if status != NOTHING_COLLECTED)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
