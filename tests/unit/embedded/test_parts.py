"""The parts of the embedded stack that need no server."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from microtome.embedded import warden
from microtome.embedded.child import BACKOFF_CAP_SECONDS, backoff_seconds
from microtome.embedded.environment import service_environment
from microtome.embedded.home import tile_store
from microtome.embedded.logfile import LogFile, last_words, tail
from microtome.embedded.ports import Ports, free_ports
from microtome.embedded.secret import password
from microtome.embedded.state import StackLock, is_locked, lock_holder, read_running
from microtome.errors import ConfigurationError


def test_the_first_restart_is_immediate_and_the_backoff_is_capped() -> None:
    waits = [backoff_seconds(n) for n in range(1, 40)]
    assert waits[0] == 0
    assert waits == sorted(waits)
    assert waits[1] == 0.5
    assert waits[-1] == BACKOFF_CAP_SECONDS


def test_a_log_is_bounded_and_keeps_the_newest(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "a.log", limit=1000)
    for number in range(500):
        log.write(f"line {number}\n".encode())
    log.close()
    log.write(b"after the end")
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 2000
    assert tail(tmp_path / "a.log", 2) == "line 498\nline 499"
    assert tail(tmp_path / "none.log") == ""


def test_last_words_are_those_of_the_last_run_without_tracebacks(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text(
        "old\n[supervisor] ended with 1, starts again in 0 s\nplain\n"
        '{"level": "error", "message": "Traceback (most recent call last):\\n  File x\\nOops: why"}\n'
        '{"level": "warning", "message": "failed", "exception": "Traceback:\\n  y\\nKeyError: 1"}\n[3]\n'
    )
    assert last_words(path) == "plain\nerror: Oops: why\nwarning: failed: KeyError: 1\n[3]"
    path.write_text("only\n[supervisor] ended with 1, starts again in 0 s\n")
    assert last_words(path) == "only"


def test_ports_come_from_the_environment() -> None:
    ports = Ports.from_environment({"GATEWAY_PORT": "9999", "METRICS_BASE_PORT": "7000"}, ("gateway", "tiler"))
    assert (ports.gateway, ports.nats, ports.postgres) == (9999, 14222, 15432)
    assert ports.metrics == {"gateway": 7000, "tiler": 7001}
    # Not 9100, where a machine's own node_exporter listens.
    assert Ports.from_environment({}, ("gateway", "tiler")).metrics == {"gateway": 19100, "tiler": 19101}
    with pytest.raises(ConfigurationError, match="NATS_PORT"):
        Ports.from_environment({"NATS_PORT": "http"}, ())
    with pytest.raises(ConfigurationError, match="GATEWAY_PORT"):
        Ports.from_environment({"GATEWAY_PORT": "70000"}, ())


def test_free_ports_differ() -> None:
    assert len(set(free_ports(50))) == 50


def test_a_password_is_made_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    first = password(path)
    assert password(path) == first
    assert len(first) > 20
    assert first[0].isalpha()
    assert path.stat().st_mode & 0o077 == 0


def test_the_lock_tells_whether_a_stack_lives(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    assert read_running(tmp_path) is None
    first, second = StackLock(tmp_path), StackLock(tmp_path)
    assert first.acquire()
    assert not second.acquire()
    assert is_locked(tmp_path)
    assert lock_holder(tmp_path) == os.getpid()
    first.release()
    assert not is_locked(tmp_path)
    assert second.acquire()
    second.release()


def test_overrides_win_and_addresses_are_the_stacks_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MICROTOME_NATS_URL", "nats://elsewhere")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    arguments = {"root": tmp_path, "addresses": {"MICROTOME_NATS_URL": "nats://here"}}
    tiler = service_environment("tiler", **arguments, overrides={"LOG_LEVEL": "DEBUG"})
    assert tiler["MICROTOME_NATS_URL"] == "nats://here"
    assert tiler["LOG_LEVEL"] == "DEBUG"
    assert tiler["OMP_NUM_THREADS"] == "1"
    assert "OMP_NUM_THREADS" not in service_environment("inference", **arguments, overrides={})


def test_the_tile_store_is_emptied_but_a_chosen_one_is_not(tmp_path: Path) -> None:
    folder, shared = tile_store(tmp_path, tmp_path / "data", {})
    (folder / "left-over").touch()
    assert tile_store(tmp_path, tmp_path / "data", {}) == (folder, shared)
    assert list(folder.iterdir()) == []
    assert folder.stat().st_mode & 0o077 == 0
    folder.rmdir()
    chosen = tmp_path / "mine"
    chosen.mkdir()
    (chosen / "precious").touch()
    assert tile_store(tmp_path, tmp_path / "data", {"TILE_STORE_DIR": str(chosen)}) == (chosen, False)
    assert (chosen / "precious").exists()


def test_the_warden_kills_what_was_announced_and_not_forgotten(tmp_path: Path) -> None:
    sleepers = [subprocess.Popen(["sleep", "1000"], start_new_session=True) for _ in range(2)]
    folder = tmp_path / "tiles"
    folder.mkdir()
    guard = subprocess.Popen([sys.executable, "-I", "-S", warden.__file__], stdin=subprocess.PIPE, text=True)
    lines = [f"+{sleeper.pid} 15\n" for sleeper in sleepers]
    guard.communicate("".join(lines) + f"-{sleepers[1].pid}\n" + f"r{folder}\n", timeout=20)
    try:
        assert sleepers[0].wait(1) == -15
        time.sleep(0.05)
        assert sleepers[1].poll() is None
        assert not folder.exists()
    finally:
        sleepers[1].kill()
        sleepers[1].wait()
