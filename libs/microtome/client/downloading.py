"""Several files at once, each on its way from a socket to the disk in a thread.

Promises: a file appears under its name when it is complete, and only then; after the first that cannot be fetched, or
when the caller is cancelled, no further one is begun and those under way are given up; nothing is left half written.
Refuses: encodings and redirections; a file comes as it is, from where it was asked for.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import socket
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NoReturn
from urllib.parse import unquote, urlsplit

import httpx

from microtome.client.problem import raise_for_problem, unreachable
from microtome.errors import Unavailable

# Read from a connection, and written to the disk, at once.
_PIECE_BYTES = 1 << 18
_LET_GO_S = 5.0


class _GivenUp(Exception):
    """Nobody waits for this file any more."""


class Downloads:
    """Files of one server, for one caller, once."""

    def __init__(self, url: str, headers: Mapping[str, str], timeout_seconds: float) -> None:
        """`url`: of the server, without a slash at its end; `headers`: of each request."""
        self._url, self._timeout = url, timeout_seconds
        at = urlsplit(url)
        self._prefix, self._headers = at.path, dict(headers)
        if at.username is not None:
            pair = f"{unquote(at.username)}:{unquote(at.password or '')}".encode()
            self._headers["Authorization"] = "Basic " + base64.b64encode(pair).decode()
        self._host, self._port = at.hostname or "", at.port
        # What the client's other requests trust.
        self._trusted = httpx.create_ssl_context() if at.scheme == "https" else None
        self._waiting: deque[tuple[str, Path]] = deque()
        self._connections: set[http.client.HTTPConnection] = set()
        self._over = threading.Event()

    async def fetch(self, wanted: Iterable[tuple[str, Path]], at_once: int) -> None:
        """Bring each path below the server's address into its file. Raises `ApiProblem`, `Unavailable`, `OSError`."""
        self._waiting.extend(wanted)
        if not self._waiting:
            return
        threads = min(at_once, len(self._waiting))
        working = [asyncio.ensure_future(asyncio.to_thread(self._work)) for _ in range(threads)]
        try:
            await asyncio.gather(*working)
        finally:
            self._over.set()
            for connection in list(self._connections):
                if connection.sock is not None:
                    with contextlib.suppress(OSError):
                        connection.sock.shutdown(socket.SHUT_RDWR)
            # Whatever they still write is written, or taken away, before the folder is the caller's again. One that is
            # not even connected yet writes nothing, and cannot be hurried.
            await asyncio.wait(working, timeout=_LET_GO_S)

    def _work(self) -> None:
        connection = self._connection()
        self._connections.add(connection)
        piece = memoryview(bytearray(_PIECE_BYTES))
        try:
            while not self._over.is_set():
                try:
                    path, target = self._waiting.popleft()
                except IndexError:
                    return
                self._get(connection, path, target, piece)
        except BaseException as error:
            # The first is what went wrong; what others meet while they are given up is not.
            if not isinstance(error, _GivenUp) and not self._over.is_set():
                raise
        finally:
            self._connections.discard(connection)
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if self._trusted is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
        return http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout, context=self._trusted)

    def _get(self, connection: http.client.HTTPConnection, path: str, target: Path, piece: memoryview) -> None:
        with self._reached():
            connection.request("GET", self._prefix + path, headers=self._headers)
            answer = connection.getresponse()
        with answer:
            if answer.status != http.client.OK:
                self._refused(answer)
            partial = target.with_name(f".{target.name}.partial")
            try:
                with partial.open("wb") as file:
                    while size := self._read(answer, piece):
                        file.write(piece[:size])
                partial.replace(target)
            finally:
                partial.unlink(missing_ok=True)

    def _refused(self, answer: http.client.HTTPResponse) -> NoReturn:
        with self._reached():
            refusal = httpx.Response(answer.status, headers=answer.getheaders(), content=answer.read())
        raise_for_problem(refusal)
        raise Unavailable(f"{self._url} answers with {refusal.reason_phrase} instead of a file.")

    def _read(self, answer: http.client.HTTPResponse, piece: memoryview) -> int:
        """Read some bytes; return how many, 0 at the end of a whole answer."""
        if self._over.is_set():
            raise _GivenUp
        with self._reached():
            size = answer.readinto(piece)
            if not size and answer.length:
                raise http.client.IncompleteRead(b"", answer.length)
        return size

    @contextlib.contextmanager
    def _reached(self) -> Iterator[None]:
        """Have what the network raises be `Unavailable`; what the disk raises stays what it is."""
        try:
            yield
        except (OSError, http.client.HTTPException) as error:
            raise unreachable(self._url, error) from error
