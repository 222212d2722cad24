"""Where the log is found, and what is said when it is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from microtome.embedded.state import StackLock, StackState
from microtome.errors import ConfigurationError
from microtome.replay.source import find_database

GIVEN, SET, RUNNING = (f"postgresql://user:secret@127.0.0.1:1/{name}" for name in ("given", "set", "running"))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The home of a stack that runs."""
    state = StackState(
        state="ready",
        supervisor_pid=1,
        url="http://127.0.0.1:1",
        database_url=RUNNING,
        nats_url="nats://127.0.0.1:1",
        data_dir=str(tmp_path),
        tile_store_dir=str(tmp_path),
    )
    state.write(tmp_path)
    return tmp_path


def test_what_is_given_wins_over_what_is_set_and_that_over_what_runs(home: Path) -> None:
    lock = StackLock(home)
    assert lock.acquire()
    try:
        environment = {"MICROTOME_HOME": str(home), "MICROTOME_DATABASE_URL": SET}
        assert find_database(GIVEN, environment) == GIVEN
        assert find_database(None, environment) == SET
        assert find_database(None, {"MICROTOME_HOME": str(home)}) == RUNNING
    finally:
        lock.release()


def test_a_stack_that_has_ended_is_no_log(home: Path) -> None:
    with pytest.raises(ConfigurationError, match="make up"):
        find_database(None, {"MICROTOME_HOME": str(home)})


def test_what_is_no_database_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="postgresql://"):
        find_database("mysql://x/y", {})
