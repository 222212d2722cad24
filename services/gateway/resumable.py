"""Bytes of uploads that may be continued: one folder each, locked by whoever writes.

Promises: the offset that is told is the length of a file that was synced to disk, so that neither a killed process nor
a power failure takes back what a client was told; nothing of a piece that announces a checksum counts before the
checksum was right, also after a kill in the middle of it. One writer at a time, across processes.
Refuses: a second writer (`UploadLocked`); to hold more than a block in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from starlette.requests import ClientDisconnect

from microtome.errors import InvalidRequest, MicrotomeError
from services.gateway.integrity import Checksum, Summing
from services.gateway.pace import Stalled
from services.gateway.quota import full_disk

_BLOCK = 1 << 20
_SYNC_EVERY = 64 << 20
_CONTENT = "content"
# While a piece with a checksum is coming: where it began.
_UNVERIFIED = "unverified"
_ORPHAN_S = 60.0
_HASHES_KEPT = 256


class UploadLocked(MicrotomeError):
    """Another request is writing to this upload; try again in a moment."""

    code: ClassVar[str] = "upload-locked"
    transient: ClassVar[bool] = True


class ResumableStore:
    """The folder `resumable/` of the data directory."""

    def __init__(self, data_dir: Path) -> None:
        self._root = data_dir / "resumable"
        # sha256 of what this process saw of an upload from its first byte on, and how much that is: saves reading
        # the file once more at the end.
        self._hashes: OrderedDict[str, tuple[int, Any]] = OrderedDict()

    def open(self) -> None:
        """Create the folder. Blocks."""
        self._root.mkdir(parents=True, exist_ok=True)

    async def offset(self, upload_id: str) -> int:
        """How many bytes lie safely on disk, 0 for an upload that has no folder."""
        return await asyncio.to_thread(_durable, self._root / upload_id)

    @contextlib.asynccontextmanager
    async def locked(self, upload_id: str) -> AsyncIterator[Incoming]:
        """The upload's bytes, for this task alone. Raises `UploadLocked`."""
        # Not in a thread: a request that is cancelled meanwhile would not know of the lock.
        folder = self._root / upload_id
        incoming = Incoming(self, upload_id, folder, _lock(folder))
        try:
            await asyncio.to_thread(incoming.recover)
            yield incoming
        finally:
            if not incoming.handed_over:
                incoming.close()

    def folders(self) -> list[str]:
        """Ids of all uploads with a folder that is not brand-new. Blocks."""
        found = []
        for folder in self._root.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if time.time() - folder.stat().st_mtime > _ORPHAN_S:
                    found.append(folder.name)
        return found

    def take_hash(self, upload_id: str, offset: int) -> Any:  # noqa: ANN401 - hashlib has no name for it
        """The sha256 of the first `offset` bytes, if this process knows it."""
        known, running = self._hashes.pop(upload_id, (0, None))
        if offset == 0:
            return hashlib.sha256()
        return running if known == offset else None

    def keep_hash(self, upload_id: str, offset: int, running: Any) -> None:  # noqa: ANN401
        """Remember the sha256 of the first `offset` bytes."""
        self._hashes[upload_id] = (offset, running)
        while len(self._hashes) > _HASHES_KEPT:
            self._hashes.popitem(last=False)


class Incoming:
    """One upload's bytes, held by one writer."""

    def __init__(self, store: ResumableStore, upload_id: str, folder: Path, handle: int) -> None:
        self._store = store
        self._upload_id = upload_id
        self._folder = folder
        self._handle = handle
        self.offset = 0
        # Whoever makes a slide of it closes it.
        self.handed_over = False

    @property
    def content(self) -> Path:
        """The file."""
        return self._folder / _CONTENT

    def recover(self) -> None:
        """Drop what a killed writer left of a piece that was not verified. Blocks."""
        self.offset = _durable(self._folder)
        if (self._folder / _UNVERIFIED).exists():
            with self.content.open("ab") as file:
                file.truncate(self.offset)
                os.fsync(file.fileno())
            self._unmark()

    async def append(self, stream: AsyncIterator[bytes], room: int, checksum: Checksum | None) -> None:
        """Write a piece of at most `room` bytes behind what there is, and sync it.

        Whatever ends it early, what came is kept, unless it was too much or was to be verified as a whole.
        Raises `ChunkChecksumMismatch`, `InvalidRequest` for more than `room`, `StorageFull`, `ClientDisconnect`,
        `Stalled`.
        """
        start = self.offset
        running = self._store.take_hash(self._upload_id, start)
        piece = await asyncio.to_thread(_Piece, self.content, running, checksum)
        keep = checksum is None
        try:
            if checksum is not None:
                await asyncio.to_thread(self._mark, start)
            await _copy(stream, piece, room)
            if checksum is not None and piece.summed is not None:
                checksum.check(piece.summed)
                keep = True
        except InvalidRequest:
            keep = False
            raise
        finally:
            # Not to be interrupted: afterwards the file and the offset agree, whatever happened.
            self.offset = await asyncio.shield(asyncio.to_thread(piece.finish, start, keep=keep))
            if checksum is not None:
                await asyncio.shield(asyncio.to_thread(self._unmark))
            if keep and running is not None:
                self._store.keep_hash(self._upload_id, self.offset, running)

    async def sha256(self) -> str:
        """The hexadecimal sha256 of all bytes; the file is read only if this process did not see all of them."""
        running = self._store.take_hash(self._upload_id, self.offset)
        if running is None or self.offset == 0:
            return await asyncio.to_thread(_file_sha256, self.content)
        self._store.keep_hash(self._upload_id, self.offset, running)
        return str(running.hexdigest())

    def drop(self) -> None:
        """Remove the bytes. Blocks."""
        self._store.take_hash(self._upload_id, -1)
        shutil.rmtree(self._folder, ignore_errors=True)

    def close(self) -> None:
        """Let others write. Blocks, as briefly as two system calls do."""
        with contextlib.suppress(OSError):  # there is something in it
            self._folder.rmdir()
        os.close(self._handle)

    def _mark(self, start: int) -> None:
        with (self._folder / _UNVERIFIED).open("w") as file:
            file.write(str(start))
            file.flush()
            os.fsync(file.fileno())
        os.fsync(self._handle)

    def _unmark(self) -> None:
        (self._folder / _UNVERIFIED).unlink(missing_ok=True)
        os.fsync(self._handle)


class _Piece:
    """What one request adds: written and summed up in blocks, in threads. Making one blocks."""

    def __init__(self, path: Path, running: Any, checksum: Checksum | None) -> None:  # noqa: ANN401
        self._file: BinaryIO = path.open("ab", buffering=0)
        self._running = running
        self.summed: Summing | None = None if checksum is None else checksum.begin()
        self._unsynced = 0
        self._size = 0
        # A request that is cancelled leaves its thread behind.
        self._lock = threading.Lock()

    def store(self, block: bytes) -> None:
        """Write a block. Blocks. Raises `StorageFull`."""
        with self._lock:
            if self._file.closed:
                return
            view = memoryview(block)
            try:
                while view:
                    view = view[self._file.write(view) :]
            except OSError as error:
                raise full_disk(error) from error
            for hashed in (self._running, self.summed):
                if hashed is not None:
                    hashed.update(block)
            self._size += len(block)
            self._unsynced += len(block)
            if self._unsynced >= _SYNC_EVERY:
                os.fdatasync(self._file.fileno())
                self._unsynced = 0

    def finish(self, start: int, *, keep: bool) -> int:
        """Sync the file, which began with `start` bytes, with or without this piece; return its length. Blocks."""
        with self._lock:
            length = start + self._size if keep else start
            try:
                if os.fstat(self._file.fileno()).st_size != length:
                    self._file.truncate(length)
                os.fsync(self._file.fileno())
            finally:
                self._file.close()
            return length


async def _copy(stream: AsyncIterator[bytes], piece: _Piece, room: int) -> None:
    block = bytearray()
    coming = 0
    try:
        async for data in stream:
            coming += len(data)
            if coming > room:
                raise InvalidRequest(
                    f"There is more than the {room} bytes that Upload-Length leaves; nothing was kept."
                )
            block += data
            if len(block) >= _BLOCK:
                # Emptied first: after an error it would be written once more.
                full, block = bytes(block), bytearray()
                await asyncio.to_thread(piece.store, full)
    except (ClientDisconnect, Stalled):
        await asyncio.to_thread(piece.store, bytes(block))
        raise
    await asyncio.to_thread(piece.store, bytes(block))


def _durable(folder: Path) -> int:
    with contextlib.suppress(FileNotFoundError, ValueError):
        return int((folder / _UNVERIFIED).read_text())
    try:
        handle = os.open(folder / _CONTENT, os.O_RDONLY)
    except FileNotFoundError:
        return 0
    try:
        os.fdatasync(handle)
        return os.fstat(handle).st_size
    finally:
        os.close(handle)


def _lock(folder: Path) -> int:
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            # Whoever held it last has just removed it.
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _same(handle, folder):
                return handle
        except BlockingIOError as error:
            os.close(handle)
            raise UploadLocked from error
        os.close(handle)


def _same(handle: int, folder: Path) -> bool:
    """Whether the locked folder is still the one under this name."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle), folder.stat())
    return False


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
