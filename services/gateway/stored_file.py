"""Files as answers.

Promises: what `FileResponse` promises (ranges, conditional ranges, the headers alone); a small file costs few ways to
threads and back: it is opened, measured and begun to be read in one of them. An answer that ends early is one that the
client sees is not whole.
Refuses: to hold more of a file than a piece.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from fastapi.responses import FileResponse
from starlette.types import Receive, Scope, Send

# Up to here it is not worth to find out whether the client is still there: less than a tenth of a second is lost.
SMALL_BYTES = 16 << 20


class StoredFile(FileResponse):
    """A whole file, or the parts of it that are asked for."""

    # For each a thread is asked: not too small ones.
    chunk_size = 1 << 18

    def __init__(self, path: Path, size_bytes: int, *, media_type: str, headers: Mapping[str, str]) -> None:
        """`size_bytes`: about how large it is."""
        super().__init__(path, media_type=media_type, headers=headers)
        self._small = size_bytes <= SMALL_BYTES

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it. Raises `FileNotFoundError`."""
        whole = scope["method"] == "GET" and all(name != b"range" for name, _ in scope["headers"])
        if not (whole and self._small):
            await super().__call__(scope, receive, send)
            return
        file, found, piece = await asyncio.to_thread(self._begun)
        with file:
            self.set_stat_headers(found)
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            left = found.st_size - len(piece)
            await send({"type": "http.response.body", "body": piece, "more_body": left > 0})
            while left > 0 and piece:
                piece = await asyncio.to_thread(file.read, self.chunk_size)
                left -= len(piece)
                await send({"type": "http.response.body", "body": piece, "more_body": left > 0})

    def _begun(self) -> tuple[IO[bytes], os.stat_result, bytes]:
        file = Path(self.path).open("rb")  # noqa: SIM115 - closed by who asked
        try:
            return file, os.fstat(file.fileno()), file.read(self.chunk_size)
        except BaseException:
            file.close()
            raise
