"""A real browser before the real stack, and a watch on everything that a page must not do."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import (
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    ViewportSize,
    WebSocket,
    async_playwright,
)

from microtome.client import ApiClient
from microtome.embedded.supervisor import EmbeddedStack
from microtome.slides.synthetic import write_synthetic_slide
from tests.conftest import PROJECT_ROOT, ServerThread, open_folder

# Screenshots, and what the services said, for whoever wants to know why a test failed.
RESULTS = PROJECT_ROOT / "test-results" / "browser"
SIZE = ViewportSize(width=1440, height=900)

# Notes each value that a progress bar, a job card or an upload shows, once per change.
RECORDER = """
window.seen = {};
new MutationObserver(() => {
  const note = (name, value) => {
    const values = window.seen[name] ??= [];
    if (value !== null && values.at(-1) !== value) values.push(value);
  };
  for (const bar of document.querySelectorAll("[role=progressbar]"))
    note(bar.ariaLabel, bar.getAttribute("aria-valuenow"));
  for (const card of document.querySelectorAll("[data-testid=job-card]")) note(card.dataset.key, card.dataset.status);
  for (const row of document.querySelectorAll("[data-testid=upload]")) note("upload", row.dataset.phase);
}).observe(document, { subtree: true, childList: true, attributes: true });
document.addEventListener("securitypolicyviolation", (event) =>
  window.violated(`${event.effectiveDirective}: ${event.blockedURI}`));
"""


@dataclass
class Visit:
    """One browser window: the page, and what it did that a test should know of."""

    page: Page
    url: str
    errors: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    frames: list[str] = field(default_factory=list)
    # Texts of console errors that the test provokes.
    expected: list[str] = field(default_factory=list)

    async def watch(self, context: BrowserContext) -> None:
        """Listen before the first page is loaded."""
        await context.expose_function("violated", self._violated)
        await context.add_init_script(RECORDER)
        context.on("request", self._requested)
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("websocket", self._connected)

    async def enter(self, user: str, at: str = "") -> None:
        """Load the page and choose a name."""
        await self.page.goto(f"{self.url}/{at}")
        await self.page.get_by_test_id("user-input").fill(user)
        await self.page.get_by_role("button", name="Continue").click()

    async def choose(self, file: Path) -> None:
        """Upload through the file chooser and open the new slide."""
        await self.page.get_by_test_id("upload-input").set_input_files(file)
        await self.page.locator(f"[data-testid=slide-card][data-filename='{file.name}']").click()

    async def seen(self, name: str) -> list[str]:
        """What one bar, card or upload has shown so far, in order."""
        values: list[str] = await self.page.evaluate("name => window.seen[name] ?? []", name)
        return values

    async def workflow(self) -> str:
        """The id of the workflow that is on screen."""
        found = await self.page.get_by_test_id("workflow").get_attribute("data-workflow-id")
        assert found
        return found

    async def finished(self, key: str) -> None:
        """Wait until a job's card says that it succeeded."""
        await self.page.locator(f"[data-key={key}][data-status=SUCCEEDED]").wait_for(timeout=90_000)

    async def picture(self, name: str) -> None:
        """Keep a screenshot."""
        await self.page.screenshot(path=RESULTS / f"{name}.png")

    def assert_clean(self) -> None:
        """No error that the test did not provoke, no violation of the policy, no other host."""
        assert not self.violations
        assert not self.elsewhere
        assert not [error for error in self.errors if not any(text in error for text in self.expected)]

    def _violated(self, what: str) -> None:
        self.violations.append(what)

    def _requested(self, request: Request) -> None:
        self.requests.append(f"{request.method} {urlsplit(request.url).path}")
        if not request.url.startswith((self.url, "blob:", "data:")):
            self.elsewhere.append(request.url)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(f"{message.text} ({message.location['url']})")

    def _connected(self, socket: WebSocket) -> None:
        if urlsplit(socket.url).netloc != urlsplit(self.url).netloc:
            self.elsewhere.append(socket.url)
        socket.on("framereceived", lambda frame: self.frames.append(str(frame)))


@pytest.fixture(scope="module")
def running(chromium_path: Path) -> Iterator[tuple[EmbeddedStack, ServerThread]]:
    """All five services; asked for after the browser, so that nothing starts in vain."""
    thread, home = ServerThread(), open_folder()
    stack = EmbeddedStack(home, durable=False)
    RESULTS.mkdir(parents=True, exist_ok=True)
    try:
        thread.run(stack.start())
        yield stack, thread
    finally:
        thread.run(stack.stop())
        thread.close()
        shutil.copytree(home / "logs", RESULTS / "logs", dirs_exist_ok=True)
        shutil.rmtree(home)


@pytest.fixture
def stack(running: tuple[EmbeddedStack, ServerThread]) -> EmbeddedStack:
    return running[0]


@pytest.fixture
async def visit(chromium_path: Path, stack: EmbeddedStack, request: pytest.FixtureRequest) -> AsyncIterator[Visit]:
    """A fresh browser; afterwards it must have been clean, whatever the test looked at."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium_path)
        context = await browser.new_context(viewport=SIZE, color_scheme="light")
        context.set_default_timeout(20_000)
        visit = Visit(await context.new_page(), stack.url)
        await visit.watch(context)
        yield visit
        await visit.picture(f"{request.node.name}-end")
        await browser.close()
    visit.assert_clean()


@pytest.fixture
async def api(stack: EmbeddedStack) -> AsyncIterator[Any]:
    """`api(user)` asks the server what the page should show."""
    clients: list[ApiClient] = []

    def client(user: str) -> ApiClient:
        clients.append(ApiClient(stack.url, user))
        return clients[-1]

    yield client
    await asyncio.gather(*(each.close() for each in clients))


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of 1024 x 1024 pixels at 0.5 µm/px that any machine can make."""
    path = tmp_path_factory.mktemp("slides") / "synthetic.tif"
    write_synthetic_slide(path, size=1024, seed=5)
    return path
