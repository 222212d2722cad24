"""A real gateway: uvicorn on a free port, Postgres and NATS of the session, a data folder of the test's own."""

from __future__ import annotations

import asyncio
import json
import socket
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import numpy as np
import pytest
from PIL import Image

from microtome.contracts.messages import MppSource, SlideRegistered, Stain
from microtome.eventlog.log import Append, NewEvent
from services.gateway import openapi
from services.gateway.context import Gateway
from services.gateway.serving import Server
from services.gateway.serving import server as http_server
from services.gateway.settings import GatewaySettings
from services.gateway.wiring import create_app
from tests.integration.gateway.json_schema import answer_faults

SLIDES = Path(__file__).resolve().parents[4] / "shared" / "data" / "slides"


@dataclass(frozen=True)
class Running:
    """A gateway that answers, and the means to look behind it."""

    url: str
    gateway: Gateway
    data_dir: Path
    http: httpx.AsyncClient
    server: Server

    def stop(self) -> None:
        self.server.should_exit = True

    def as_user(self, user: str) -> dict[str, str]:
        return {"X-User-ID": user}

    async def get(self, path: str, user: str = "ada", **more: Any) -> httpx.Response:
        return await self.http.get(f"/api/v1{path}", headers={**self.as_user(user), **more.pop("headers", {})}, **more)

    async def post(self, path: str, user: str = "ada", **more: Any) -> httpx.Response:
        return await self.http.post(f"/api/v1{path}", headers={**self.as_user(user), **more.pop("headers", {})}, **more)

    async def upload(self, path: Path, user: str = "ada", **query: Any) -> dict[str, Any]:
        response = await self.post("/slides", user, content=content(path), params={"filename": path.name, **query})
        assert response.status_code == 201, response.text
        return dict(response.json())

    async def submit(self, *jobs: dict[str, Any], user: str = "ada", **more: Any) -> httpx.Response:
        return await self.post("/workflows", user, json={"name": "test", "jobs": list(jobs)}, **more)

    async def until(self, path: str, condition: Callable[[Any], bool], user: str = "ada") -> httpx.Response:
        """Ask until the answer is as it should be; the last answer tells why it never was."""
        for _ in range(200):
            response = await self.get(path, user)
            if condition(response.json()):
                return response
            await asyncio.sleep(0.025)
        return pytest.fail(f"{path} stays {response.text}")

    async def stored_events(self) -> int:
        connection = await asyncpg.connect(self.gateway.settings.microtome_database_url)
        try:
            return int(await connection.fetchval("select count(*) from events"))
        finally:
            await connection.close()

    def stored_files(self) -> list[str]:
        return sorted(
            str(path.relative_to(self.data_dir))
            for folder in ("uploads", "slides")
            for path in (self.data_dir / folder).rglob("*")
        )

    async def assert_problem(self, response: httpx.Response, status: int, code: str) -> dict[str, Any]:
        assert response.status_code == status, response.text
        assert response.headers["content-type"] == "application/problem+json"
        problem = response.json()
        assert problem["code"] == code, problem
        assert problem["status"] == status
        assert problem["type"] == f"urn:microtome:problem:{code}"
        assert set(problem) >= {"title", "detail", "instance", "transient"}
        return dict(problem)


Start = Callable[..., Any]


def content(path: Path) -> bytes:
    return path.read_bytes()


def picture(folder: Path, name: str) -> Path:
    """A plain image of noise, 640 x 480, without a pixel size; only the last part of `name` is on disk."""
    path = folder / "pictures" / Path(name).name
    path.parent.mkdir(exist_ok=True)
    pixels = np.random.default_rng(7).integers(120, 255, (480, 640, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


async def registered(running: Running, mpp: float | None, *, fluorescence: bool = False, user: str = "ada") -> str:
    """A slide that the log knows; its file is not needed."""
    slide_id = str(uuid.uuid4())
    message = SlideRegistered(
        slide_id=slide_id,
        user_id=user,
        filename="slide.svs",
        width=1000,
        height=800,
        mpp=mpp,
        mpp_source=MppSource.UNKNOWN if mpp is None else MppSource.VENDOR,
        stain=Stain.FLUORESCENCE if fluorescence else Stain.BRIGHTFIELD,
        path=f"slides/{slide_id}/slide.svs",
    )
    event = NewEvent(event_id=uuid.uuid4(), message=message, tenant=user)
    await running.gateway.log.append(Append(f"slide-{slide_id}", 0, (event,)))
    return slide_id


@cache
def _document() -> dict[str, Any]:
    return dict(json.loads(openapi.document()))


async def _as_described(response: httpx.Response) -> None:
    """Every answer that any test gets is one that the OpenAPI document describes."""
    request = response.request
    media_type = response.headers.get("content-type", "").partition(";")[0]
    if media_type == "text/event-stream" or response.status_code >= 500:
        return
    await response.aread()
    body: Any = response.content or None
    if body is not None and media_type.endswith("json"):
        body = response.json()
    if request.method == "HEAD":
        return
    found = answer_faults(_document(), request.method, request.url.path, response.status_code, media_type, body)
    assert not found, found


@pytest.fixture
def start_gateway(database_url: str, nats_url: str, tmp_path: Path) -> Start:
    """Starts a gateway with other settings than the usual ones."""

    @asynccontextmanager
    async def start(**settings: Any) -> AsyncIterator[Running]:
        chosen = GatewaySettings(
            **{
                "microtome_database_url": database_url,
                "microtome_nats_url": nats_url,
                "microtome_data_dir": tmp_path / "data",
                "microtome_ui_dir": tmp_path / "ui",
                "rate_burst": 0,
                **settings,
            }
        )
        app = create_app(chosen)
        listener = socket.create_server(("127.0.0.1", 0))
        server = http_server(app, timeout_graceful_shutdown=2)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            while not server.started:
                if task.done():
                    await task
                    pytest.fail("the gateway did not start")
                await asyncio.sleep(0.02)
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            hooks = {"response": [_as_described]}
            async with httpx.AsyncClient(base_url=url, timeout=30, event_hooks=hooks) as client:
                yield Running(url, app.state.gateway, chosen.microtome_data_dir, client, server)
        finally:
            server.should_exit = True
            await task
            listener.close()

    return start


@pytest.fixture
async def gateway(start_gateway: Start) -> AsyncIterator[Running]:
    async with start_gateway() as running:
        yield running
