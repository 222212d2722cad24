"""Load for the gateway, from a process of its own: `python -m tests.bench.load`.

`requests`: closed loops over keep-alive connections, each sending its next request when the last was answered. Rate and
latencies are those of the requests that were granted (2xx); all others are counted by status, 0 for a lost connection.
`listen`: clients of the live API that note how long after its commit each event reached them.
Prints one JSON line. Sockets and as little parsing as will do: the load must cost less than what it measures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import time
from collections import Counter
from datetime import datetime
from pathlib import Path


class Answers(asyncio.Protocol):
    """One keep-alive connection that answers futures with (status, whole answer)."""

    def __init__(self) -> None:
        self._buffer = b""
        self._waiting: asyncio.Future[int] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        lower = head.lower()
        length = 0
        if (at := lower.find(b"content-length:")) >= 0:
            length = int(lower[at + 15 :].split(b"\r\n", 1)[0])
        if len(body) < length:
            return
        self._buffer = body[length:]
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(int(head[9:12]))

    def connection_lost(self, error: Exception | None) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(0)

    async def ask(self, request: bytes) -> int:
        """Send a request; return the status of its answer, 0 when the connection ended."""
        assert self._transport is not None
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._waiting


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


async def requests(port: int, prepared: list[bytes], connections: int, seconds: float) -> dict[str, object]:
    """Send the prepared requests in turn; seconds are wall time."""
    loop = asyncio.get_running_loop()
    statuses: Counter[int] = Counter()
    took: list[float] = []
    place = iter(range(1 << 60))
    began = time.perf_counter()
    end = began + seconds

    async def one() -> None:
        _, connection = await loop.create_connection(Answers, "127.0.0.1", port)
        while (at := time.perf_counter()) < end:
            status = await connection.ask(prepared[next(place) % len(prepared)])
            statuses[status] += 1
            if 200 <= status < 300:
                took.append(time.perf_counter() - at)
            if status == 0:
                _, connection = await loop.create_connection(Answers, "127.0.0.1", port)

    await asyncio.gather(*(one() for _ in range(connections)))
    spent = time.perf_counter() - began
    return {
        "per_s": round(len(took) / spent, 1),
        "p50_ms": round(percentile(took, 0.5) * 1000, 2),
        "p99_ms": round(percentile(took, 0.99) * 1000, 2),
        "others": {str(status): count for status, count in statuses.items() if not 200 <= status < 300},
        "connections": connections,
    }


async def listen(port: int, watched: list[tuple[str, str]], clients: int) -> dict[str, object]:
    """Listen until SIGTERM; `watched` are (user, path). Prints `listening` once every client is connected."""
    late: list[float] = []
    events: Counter[int] = Counter()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)

    async def one(number: int) -> None:
        user, path = watched[number % len(watched)]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: bench\r\nX-User-ID: {user}\r\nAccept: text/event-stream\r\n\r\n".encode()
        )
        status = await reader.readline()
        if b" 200 " not in status:
            raise SystemExit(f"{path}: {status!r}")
        connected.release()
        while line := await reader.readline():
            # What an event is, its beginning says; a listener that parses every snapshot is slower than the server.
            if line.startswith(b"data:") and b'"event"' in line[:40]:
                now = time.time()
                message = json.loads(line[5:])
                if message["kind"] == "event":
                    late.append(now - datetime.fromisoformat(message["at"]).timestamp())
                    events[number] += 1

    connected = asyncio.Semaphore(0)
    tasks = [asyncio.create_task(one(number)) for number in range(clients)]
    for _ in range(clients):
        await connected.acquire()
    print("listening", flush=True)
    await stop.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return {
        "events": len(late),
        "clients_with_events": len(events),
        "p50_ms": round(percentile(late, 0.5) * 1000, 1),
        "p99_ms": round(percentile(late, 0.99) * 1000, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("requests", "listen"))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument(
        "--plan", type=Path, required=True, help="JSON: requests as [method, path, user, body], or paths"
    )
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    plan = json.loads(options.plan.read_text())
    if options.what == "listen":
        result = asyncio.run(listen(options.port, [tuple(entry) for entry in plan], options.connections))
    else:
        prepared = [_request(*entry) for entry in plan]
        result = asyncio.run(requests(options.port, prepared, options.connections, options.seconds))
    print(json.dumps(result))
    return 0


def _request(method: str, path: str, user: str, body: object) -> bytes:
    content = b"" if body is None else json.dumps(body).encode()
    kind = f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n" if content else ""
    return f"{method} {path} HTTP/1.1\r\nHost: bench\r\nX-User-ID: {user}\r\n{kind}\r\n".encode() + content


if __name__ == "__main__":
    sys.exit(main())
