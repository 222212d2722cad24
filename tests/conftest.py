"""Fixtures shared by all tests: real servers, once per session, and clean databases in them."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import threading
import uuid
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from microtome.embedded.nats import Nats
from microtome.embedded.ports import free_ports
from microtome.embedded.supervisor import EmbeddedStack
from tests.browser.chromium import find_or_install

PROJECT_ROOT = Path(__file__).resolve().parents[1]
SLIDES = PROJECT_ROOT.parent / "shared" / "data" / "slides"

# Models that somebody imported on this machine are no part of the tests.
os.environ["MICROTOME_MODELS"] = str(PROJECT_ROOT / "tests" / "no-models")

_browser_skips: set[str] = set()


class ServerThread:
    """An event loop of its own, so that session servers outlive the loops of single tests."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="session servers", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(120)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


def open_folder() -> Path:
    """A temporary folder that, unlike pytest's own, Postgres can enter when the tests run as root."""
    folder = Path(tempfile.mkdtemp(prefix="microtome-test-"))
    folder.chmod(0o755)
    return folder


@pytest.fixture(scope="session")
def servers() -> Iterator[EmbeddedStack]:
    """One NATS and one Postgres for the whole session, without services."""
    thread = ServerThread()
    home = open_folder()
    stack = EmbeddedStack(home, services=(), durable=False)
    try:
        thread.run(stack.start())
        yield stack
    finally:
        thread.run(stack.stop())
        thread.close()
        shutil.rmtree(home)


@pytest.fixture
def stack_home() -> Iterator[Path]:
    """A home for an `EmbeddedStack` of the test's own."""
    home = open_folder()
    yield home
    shutil.rmtree(home)


@pytest.fixture(scope="session")
def postgres_url(servers: EmbeddedStack) -> str:
    """The session's Postgres server; make no tables in this database, take `database_url` for that."""
    return servers.database_url


@pytest.fixture
async def database_url(postgres_url: str) -> AsyncIterator[str]:
    """An empty database of this test's own, dropped afterwards whoever is still connected."""
    name = f"test_{uuid.uuid4().hex}"
    connection = await asyncpg.connect(postgres_url)
    try:
        await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
        yield urlsplit(postgres_url)._replace(path=f"/{name}").geturl()
        await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    finally:
        await connection.close()


@pytest.fixture(scope="session")
def nats_url(servers: EmbeddedStack) -> str:
    """The session's NATS server, shared: other tests' streams are in it too."""
    return servers.nats_url


@pytest.fixture
async def fresh_nats_url(tmp_path: Path) -> AsyncIterator[str]:
    """A NATS server of this test's own, with an empty store."""
    server = Nats(tmp_path, free_ports(1)[0], PROJECT_ROOT / "deploy" / "nats.conf")
    spec = server.spec()
    process = await asyncio.create_subprocess_exec(
        *spec.argv, env=dict(spec.environment), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await server.wait_ready()
        yield server.url
    finally:
        process.terminate()
        await process.wait()


@pytest.fixture
def free_port() -> int:
    return free_ports(1)[0]


@pytest.fixture(scope="session")
def small_slide() -> Path:
    """CMU-1-Small-Region.svs, 2220 x 2967 pixels at 0.499 µm/px."""
    path = SLIDES / "CMU-1-Small-Region.svs"
    if not path.exists():
        pytest.skip(f"the real slide {path} is not on this machine")
    return path


@pytest.fixture(scope="session")
def chromium_path() -> Path:
    """A browser for Playwright's `executable_path`. Without one the test is skipped, loudly; in CI it fails."""
    browser = find_or_install()
    if browser.path is None:
        if os.environ.get("MICROTOME_REQUIRE_BROWSER") == "1":
            pytest.fail(f"browser tests are required here, but: {browser.reason}")
        _browser_skips.add(browser.reason)
        pytest.skip(f"no browser: {browser.reason}")
    return browser.path


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for reason in _browser_skips:
        terminalreporter.section("BROWSER TESTS DID NOT RUN", sep="!", red=True, bold=True)
        terminalreporter.line(reason)
