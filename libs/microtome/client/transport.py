"""Requests to the API, and the answers that are refusals.

Promises: what the server refuses is an `ApiProblem`, what does not answer is `Unavailable`; a refusal that says when to
come again is waited for, for as long as the caller has patience. A file that is downloaded appears under its name only
when it is complete.
Refuses: to send again what may already have changed something; only a refusal, or a request with a key, is repeated.
"""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpcore
import httpx

from microtome.client.downloading import Downloads
from microtome.client.problem import Problem, raise_for_problem, unreachable

CHUNK_BYTES = 1024 * 1024
PAGE = 100
# What is read from a connection at once; by default a quarter of what the event loop reads from it anyway.
httpcore.AsyncHTTP11Connection.READ_NUM_BYTES = 1 << 18
# For each of its locks httpcore looks through all of sys.path for this module, until it finds it; None: there is none.
if importlib.util.find_spec("sniffio") is None:
    sys.modules["sniffio"] = None  # type: ignore[assignment]
# Refusals that end by themselves.
_COME_AGAIN = frozenset({429, 503})


class Transport:
    """One user's connection to one server.

    `url` is the server's address without `/api/v1`. `patience_seconds`: how long a refusal that says "later" (429, 503)
    is answered by waiting instead of by raising.
    """

    def __init__(self, url: str, user: str, *, timeout_seconds: float = 60.0, patience_seconds: float = 0.0) -> None:
        self.url = url.rstrip("/")
        self.user = user
        self._patience = patience_seconds
        self._timeout = timeout_seconds
        # Without the environment's proxies: the server is an address that was asked for.
        self._http = httpx.AsyncClient(
            base_url=f"{self.url}/api/v1/", headers={"X-User-ID": user}, timeout=timeout_seconds, trust_env=False
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def call(self, method: str, path: str, **request: Any) -> Any:  # noqa: ANN401 - JSON
        """Send one request and return the JSON of its answer, or None. Raises ApiProblem, Unavailable."""
        response = await self.send(method, path, **request)
        return response.json() if response.content else None

    async def send(self, method: str, path: str, **request: Any) -> httpx.Response:  # noqa: ANN401 - httpx has it so
        """Send one request and return the whole answer. Raises ApiProblem, Unavailable."""
        deadline = time.monotonic() + self._patience
        while True:
            try:
                response = await self._http.request(method, path, **request)
            except httpx.TransportError as error:
                raise unreachable(self.url, error) from error
            pause = _pause(response)
            # A body that is streamed is gone once it was sent.
            if pause is None or "content" in request or time.monotonic() + pause > deadline:
                raise_for_problem(response)
                return response
            await asyncio.sleep(pause)

    async def pages(self, path: str, parameters: Mapping[str, Any], limit: int | None) -> list[Any]:
        """Collect a list that comes in pages, up to `limit` items (None: all of them)."""
        items: list[Any] = []
        cursor: str | None = None
        while True:
            wanted = PAGE if limit is None else min(PAGE, limit - len(items))
            asked = {**parameters, "limit": wanted, "cursor": cursor}
            answer = await self.call("GET", path, params=given(asked))
            items += answer["items"]
            cursor = answer["next_cursor"]
            if cursor is None or (limit is not None and len(items) >= limit):
                return items

    async def stream_to(self, path: str, target: Path, **request: Any) -> Path:  # noqa: ANN401 - httpx has it so
        """Stream the answer of a GET into the file `target`."""
        partial = target.with_name(f".{target.name}.partial")
        try:
            async with self._http.stream("GET", path, **request) as response:
                if response.is_error:
                    await response.aread()
                raise_for_problem(response)
                with partial.open("wb") as file:
                    async for pieces in _together(response.aiter_bytes()):
                        await asyncio.to_thread(file.writelines, pieces)
        except httpx.TransportError as error:
            raise unreachable(self.url, error) from error
        else:
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
        return target

    async def stream_files(self, wanted: Iterable[tuple[str, Path]], at_once: int) -> None:
        """Stream the answers of several GETs into files, `at_once` at a time; see `microtome.client.downloading`."""
        paths = [(f"/api/v1/{path}", target) for path, target in wanted]
        await Downloads(self.url, {"X-User-ID": self.user}, self._timeout).fetch(paths, at_once)


async def _together(pieces: AsyncIterator[bytes]) -> AsyncIterator[list[bytes]]:
    """Yield what comes in small pieces about a mebibyte at a time, without copying it."""
    held: list[bytes] = []
    size = 0
    async for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= CHUNK_BYTES:
            yield held
            held, size = [], 0
    yield held


async def read_file(path: Path, start: int = 0) -> AsyncIterator[bytes]:
    """Yield a file's bytes from `start`, a mebibyte at a time."""
    with path.open("rb") as file:
        file.seek(start)
        while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield chunk


def given(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that are not None."""
    return {name: value for name, value in parameters.items() if value is not None}


def part(text: str) -> str:
    """Return a text as one part of a path."""
    return quote(text, safe="")


def _pause(response: httpx.Response) -> float | None:
    """Return how many seconds a refusal asks to wait; None when it is no such refusal."""
    if response.status_code not in _COME_AGAIN:
        return None
    if not Problem.from_response(response).transient and response.status_code != httpx.codes.TOO_MANY_REQUESTS:
        return None
    asked = response.headers.get("Retry-After", "")
    return max(0.1, float(asked)) if asked.isdigit() else 1.0
