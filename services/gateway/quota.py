"""Room for what users upload.

Promises: what a user's slides, what they drew on them and open uploads take together stays within USER_QUOTA_BYTES,
whichever gateways they talk to; an upload that the disk has no room for is refused before its first byte. Bytes that
came count when they were promised, not when they arrive, so that two uploads cannot both take the last room.
Refuses: to count what the server makes of a slide (converted copies, results); to reserve anything on the disk itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import shutil
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import ClassVar

from microtome.errors import MicrotomeError
from microtome.reservations.uploads import Drawing, Upload, Uploads, Usage

# A body of unknown length is promised room in such steps.
_STEP = 64 << 20
_KEPT_FREE = 1 << 30
# Of a request that is answered at its end; only a killed gateway leaves any.
_REQUEST_S = 24 * 3600.0


class StorageFull(MicrotomeError):
    """The server's disk is full; tell its operator."""

    code: ClassVar[str] = "storage-full"


def full_disk(error: OSError) -> OSError | StorageFull:
    """What to raise for an error of the disk."""
    return StorageFull() if error.errno in (errno.ENOSPC, errno.EDQUOT) else error


class Room:
    """What one request has been promised so far."""

    def __init__(self, quota: Quota, upload_id: str, user_id: str, size: int) -> None:
        self._quota = quota
        self._upload_id = upload_id
        self._user_id = user_id
        self._size = size

    async def ensure(self, size: int) -> None:
        """Have room for `size` bytes in all. Raises `QuotaExceeded`, `Unavailable`."""
        limit = self._quota.limit_bytes
        if limit and size > self._size:
            self._size = await self._quota.uploads.grow(
                self._upload_id, self._user_id, size, size + _STEP, limit_bytes=limit
            )


class Quota:
    """The limit of every user."""

    def __init__(self, uploads: Uploads, data_dir: Path, limit_bytes: int, max_open: int = 0) -> None:
        """0: no limit."""
        self.uploads = uploads
        self._max_open = max_open
        self.limit_bytes = limit_bytes
        self._data_dir = data_dir

    async def usage(self, user_id: str) -> Usage:
        """Say what a user has. Raises `Unavailable`."""
        return await self.uploads.usage(user_id)

    @contextlib.asynccontextmanager
    async def reserved(self, upload_id: str, user_id: str, announced: int | None) -> AsyncIterator[Room]:
        """Room for a file that comes in this request. Raises `QuotaExceeded`, `StorageFull`, `Unavailable`."""
        size = announced or 0
        await self.check_disk(size)
        if not self.limit_bytes:
            yield Room(self, upload_id, user_id, size)
            return
        await self.uploads.open(
            upload_id, user_id, size, limit_bytes=self.limit_bytes, seconds=_REQUEST_S, resumable=False
        )
        try:
            yield Room(self, upload_id, user_id, size)
        finally:
            # The slide counts from now on; what cannot be removed now is swept.
            with contextlib.suppress(MicrotomeError):
                await asyncio.shield(self.uploads.remove(upload_id))

    async def promise(self, upload_id: str, user_id: str, size: int, metadata: str, seconds: float) -> Upload:
        """Room for a file that comes in several requests.

        Raises `QuotaExceeded`, `TooManyUploads`, `StorageFull`, `Unavailable`.
        """
        await self.check_disk(size)
        return await self.uploads.open(
            upload_id,
            user_id,
            size,
            limit_bytes=self.limit_bytes,
            seconds=seconds,
            resumable=True,
            max_open=self._max_open,
            metadata=metadata,
        )

    async def draw(self, user_id: str, drawings: Sequence[Drawing]) -> None:
        """Room for what was drawn as tissue. Raises `QuotaExceeded`, `StorageFull`, `Unavailable`."""
        await self.check_disk(sum(drawing.size_bytes for drawing in drawings))
        await self.uploads.draw(user_id, drawings, limit_bytes=self.limit_bytes)

    async def check_disk(self, size: int) -> None:
        """Refuse what the disk has no room for. Raises `StorageFull`."""
        free = (await asyncio.to_thread(shutil.disk_usage, self._data_dir)).free
        if size + _KEPT_FREE > free:
            raise StorageFull("The server's disk has no room for this; tell its operator.")
