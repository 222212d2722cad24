"""Dying at named places: exactly there, exactly then, and never by a name that does not exist."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from microtome import crashpoint
from microtome.crashpoint import MARK, POINT, CrashPoint, check
from microtome.errors import ConfigurationError

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
from microtome.crashpoint import CrashPoint, check, crash_point
check()
for number in range(1, 4):
    crash_point(CrashPoint.TILER_AFTER_LEASE)
    crash_point(CrashPoint.MERGER_AFTER_RENAME_BEFORE_APPEND)
    print(number, flush=True)
"""


def run(**environment: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout.split()


def test_dies_there_and_then_and_only_once_with_a_mark(tmp_path: Path) -> None:
    mark = tmp_path / "reached"
    assert run(**{POINT: "merger-after-rename-before-append"}) == (-signal.SIGKILL, [])
    at_third = {POINT: "tiler-after-lease:3", MARK: str(mark)}
    assert run(**at_third) == (-signal.SIGKILL, ["1", "2"])
    assert mark.exists()
    assert run(**at_third) == (0, ["1", "2", "3"])


@pytest.mark.parametrize("wish", ["tiler-after-lunch", "tiler-after-lease:0", "tiler-after-lease:soon", ":1"])
def test_a_wish_that_cannot_come_true_is_refused_at_the_start(wish: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(POINT, wish)
    with pytest.raises(ConfigurationError, match=POINT):
        check()


@pytest.mark.parametrize("service", ["scheduler", "gateway", "tiler"])
def test_no_service_starts_with_an_unknown_place(service: str, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        POINT: "somewhere",
        "MICROTOME_DATABASE_URL": "postgresql://127.0.0.1:1/none",
        "MICROTOME_NATS_URL": "nats://127.0.0.1:1",
        "MICROTOME_DATA_DIR": str(tmp_path),
        "TILE_STORE_DIR": str(tmp_path),
        "GATEWAY_PORT": "0",
    }
    done = subprocess.run(
        [sys.executable, "-m", f"services.{service}"],
        env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "there is no crash point 'somewhere'" in done.stderr


def test_every_place_is_in_the_code_once() -> None:
    used: Counter[str] = Counter()
    for folder in ("libs/microtome", "services"):
        for path in (ROOT / folder).rglob("*.py"):
            if path != Path(crashpoint.__file__):
                text = path.read_text()
                used.update({point.name: text.count(f"crash_point(CrashPoint.{point.name})") for point in CrashPoint})
    assert used == dict.fromkeys((point.name for point in CrashPoint), 1)
