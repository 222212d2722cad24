"""Receiving a file of any size: from the socket to the disk, hashed on the way.

Promises: memory does not grow with the file (one block is in flight, and the socket is not read while the
disk is busy); the file appears under `slides/<slide_id>/` by one rename after it was synced and found
readable; whatever ends a request early leaves nothing. What a killed process leaves in `uploads/` is
swept by the next one, and a slide's folder says by a mark that it may not be recorded yet.
Refuses: more than the limit, more than the user has room for, more than one file.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import time
import unicodedata
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from microtome.errors import InvalidRequest, TooLarge
from microtome.tissue.store import OUTLINES, UNFINISHED
from services.gateway.quota import full_disk

_BLOCK = 1 << 20
_SWEEP_AFTER_S = 60.0
# Longer than all tries to record a slide take together, and than Postgres lets a statement run.
UNRECORDED_AFTER_S = 300.0
_NAME_BYTES = 150
_MULTIPART_OVERHEAD = 16 << 10
_ARRIVING = ".arriving"
# In a slide's folder from before the rename until its event is known to be stored. No file name starts with a dot.
_UNRECORDED = ".unrecorded"
# The gateway keeps its own picture of the slide under this name.
_RESERVED = frozenset({"thumbnail.jpg"})


@dataclass(frozen=True, slots=True)
class Received:
    """A file that arrived whole: its cleaned name, its size and its hexadecimal sha256."""

    path: Path
    filename: str
    size_bytes: int
    sha256: str


def clean_filename(name: str) -> str:
    """A file name without folders, control characters or surprises, at most 150 bytes, suffix kept."""
    name = unicodedata.normalize("NFC", name).replace("\\", "/").rsplit("/", 1)[-1]
    name = re.sub(r"[^\w .()+-]", "_", name).strip(" .")
    if not name:
        return "slide"
    if name in _RESERVED:
        name = f"slide-{name}"
    stem, dot, suffix = name.rpartition(".")
    if not dot or len(suffix.encode()) > 20:
        stem, dot, suffix = name, "", ""
    room = _NAME_BYTES - len((dot + suffix).encode())
    return stem.encode()[:room].decode(errors="ignore") + dot + suffix


class Draft:
    """A private folder for one upload, locked, wherever it lies, until it is closed or its process ends."""

    def __init__(self, folder: Path, final: Path) -> None:
        """Create the folder. Blocks, as briefly as three system calls do."""
        self.folder = folder
        self._final = final
        self.published = False
        # Whoever records the slide sees it through to the end, and closes the draft.
        self.handed_over = False
        self._handle = _create_locked(folder)

    def publish(self) -> Path:
        """Make the folder the slide's own, by one rename; return where it now lies. Blocks."""
        self._final.parent.mkdir(parents=True, exist_ok=True)
        (self.folder / _UNRECORDED).touch()
        _sync(self.folder)
        self.folder.rename(self._final)
        self.published = True
        _sync(self._final.parent)
        return self._final

    def confirm(self) -> None:
        """Say that the slide is recorded. Blocks."""
        (self._final / _UNRECORDED).unlink(missing_ok=True)

    def withdraw(self) -> None:
        """Take back what was published: nothing recorded it. Blocks."""
        if self.published:
            self._final.rename(self.folder)
            self.published = False

    def close(self) -> None:
        """Unlock the folder, and remove it unless it was published. Blocks."""
        os.close(self._handle)
        if not self.published:
            shutil.rmtree(self.folder, ignore_errors=True)


class UploadStore:
    """The folders `uploads/` (arriving) and `slides/` (kept) of the data directory."""

    def __init__(self, data_dir: Path, max_bytes: int) -> None:
        self._uploads = data_dir / "uploads"
        self._slides = data_dir / "slides"
        self._max_bytes = max_bytes

    def open(self) -> None:
        """Create the folders and remove what killed processes left. Blocks."""
        self._slides.mkdir(parents=True, exist_ok=True)
        self._uploads.mkdir(parents=True, exist_ok=True)
        for leftover in self._uploads.iterdir():
            with contextlib.suppress(OSError):
                if time.time() - leftover.stat().st_mtime > _SWEEP_AFTER_S and _unlocked(leftover):
                    shutil.rmtree(leftover, ignore_errors=True)

    @contextlib.asynccontextmanager
    async def draft(self, slide_id: str) -> AsyncIterator[Draft]:
        """A folder that is gone afterwards unless it was published."""
        # Neither made nor closed in a thread: a request that is cancelled meanwhile would not know of the folder.
        draft = Draft(self._uploads / slide_id, self._slides / slide_id)
        try:
            yield draft
        finally:
            if not draft.handed_over:
                draft.close()

    def unrecorded(self) -> list[str]:
        """Slides that may never have been recorded, of which nobody takes care any more. Blocks."""
        found = []
        for mark in self._slides.glob(f"*/{_UNRECORDED}"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - mark.stat().st_mtime > UNRECORDED_AFTER_S and _unlocked(mark.parent):
                    found.append(mark.parent.name)
        return found

    def confirm(self, slide_id: str) -> None:
        """Say that a slide is recorded. Blocks."""
        (self._slides / slide_id / _UNRECORDED).unlink(missing_ok=True)

    def remove(self, slide_id: str) -> None:
        """Remove a slide that is not recorded; cut short, the rest is swept like an upload. Blocks."""
        going = self._uploads / slide_id
        with contextlib.suppress(FileNotFoundError):
            (self._slides / slide_id).rename(going)
        shutil.rmtree(going, ignore_errors=True)

    def drop_leftovers(self) -> int:
        """Remove outlines that killed processes left half written beside slides; return how many. Blocks."""
        dropped = 0
        for leftover in self._slides.glob(f"*/{OUTLINES}/{UNFINISHED}*"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - leftover.stat().st_mtime > UNRECORDED_AFTER_S:
                    leftover.unlink()
                    dropped += 1
        return dropped

    def clear(self, slide_id: str) -> None:
        """Remove what earlier tries to register this slide left, none of which was recorded. Blocks."""
        shutil.rmtree(self._uploads / slide_id, ignore_errors=True)
        self.remove(slide_id)

    def arriving(self, slide_id: str) -> bool:
        """Whether a request is at work on this slide, in any process. Blocks."""
        for folder in (self._uploads / slide_id, self._slides / slide_id):
            with contextlib.suppress(OSError):
                if not _unlocked(folder):
                    return True
        return False

    def check_size(self, announced: int | None) -> None:
        """Refuse by its Content-Length what cannot be stored. Raises `TooLarge`."""
        # A multipart body is a little longer than its file.
        if announced is not None and announced > self._max_bytes + _MULTIPART_OVERHEAD:
            raise self._too_large()

    async def receive(
        self,
        draft: Draft,
        stream: AsyncIterator[bytes],
        content_type: str,
        filename: str | None,
        admit: Callable[[int], Awaitable[None]],
    ) -> Received:
        """Write the body into the draft; multipart bodies are unpacked as they come.

        `filename`: the query's, which wins over the part's. `admit` is asked before the file grows to so many bytes.
        Raises `TooLarge`, `InvalidRequest`, `StorageFull`, and whatever `admit` and the stream raise.
        """
        multipart = _boundary(content_type)
        sink = _Sink(draft.folder / _ARRIVING, admit)
        try:
            if multipart is None:
                async for chunk in stream:
                    await self._write(sink, chunk)
                name = None
            else:
                part = _FilePart(multipart)
                async for chunk in stream:
                    for piece in part.feed(chunk):
                        await self._write(sink, piece)
                name = part.finish()
            size, sha256 = await sink.finish()
        finally:
            await asyncio.shield(asyncio.to_thread(sink.close))
        if size == 0:
            raise InvalidRequest("The body is empty; send the slide's file.")
        cleaned = clean_filename(filename or name or "slide")
        path = (draft.folder / _ARRIVING).rename(draft.folder / cleaned)
        return Received(path, cleaned, size, sha256)

    async def _write(self, sink: _Sink, piece: bytes) -> None:
        if sink.size + len(piece) > self._max_bytes:
            raise self._too_large()
        await sink.write(piece)

    def _too_large(self) -> TooLarge:
        return TooLarge(f"The file is larger than the {self._max_bytes} bytes that this server accepts.")


class _Sink:
    """A file that is written and hashed in blocks, in a thread; the writer waits for the disk."""

    def __init__(self, path: Path, admit: Callable[[int], Awaitable[None]]) -> None:
        self._file: BinaryIO = path.open("xb", buffering=0)
        self._admit = admit
        self._hash = hashlib.sha256()
        self._block = bytearray()
        self.size = 0

    async def write(self, piece: bytes) -> None:
        self.size += len(piece)
        self._block += piece
        if len(self._block) >= _BLOCK:
            await self._flush()

    async def finish(self) -> tuple[int, str]:
        """Sync to disk; return the size in bytes and the sha256."""
        await self._flush()
        await asyncio.to_thread(os.fsync, self._file.fileno())
        return self.size, self._hash.hexdigest()

    def close(self) -> None:
        self._file.close()

    async def _flush(self) -> None:
        block, self._block = bytes(self._block), bytearray()
        if block:
            await self._admit(self.size)
            await asyncio.to_thread(self._store, block)

    def _store(self, block: bytes) -> None:
        self._hash.update(block)
        view = memoryview(block)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise full_disk(error) from error


class _FilePart:
    """The one file in a multipart body, taken out as the body comes."""

    def __init__(self, boundary: bytes) -> None:
        self._pieces: list[bytes] = []
        self._name: str | None = None
        self._header: list[bytes] = [b"", b""]
        self._disposition = b""
        self._files = 0
        self._ended = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._on_part_begin,
                "on_header_field": lambda data, start, end: self._on_header(0, data[start:end]),
                "on_header_value": lambda data, start, end: self._on_header(1, data[start:end]),
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers_finished,
                "on_part_data": lambda data, start, end: self._pieces.append(bytes(data[start:end])),
                "on_end": self._on_end,
            },
        )

    def feed(self, chunk: bytes) -> list[bytes]:
        """The bytes of the file in this chunk of the body. Raises `InvalidRequest`."""
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise InvalidRequest("The multipart body is malformed.") from error
        pieces, self._pieces = self._pieces, []
        return pieces

    def finish(self) -> str | None:
        """The file's name as the part says it. Raises `InvalidRequest` unless there was exactly one file."""
        if not self._ended:
            raise InvalidRequest("The multipart body ends before its last boundary.")
        return self._name

    def _on_part_begin(self) -> None:
        self._files += 1
        self._disposition = b""
        if self._files > 1:
            raise InvalidRequest("Send one file part and nothing else; mpp and assume_mpp belong into the address.")

    def _on_header(self, index: int, data: bytes) -> None:
        self._header[index] += data

    def _on_header_end(self) -> None:
        if self._header[0].lower() == b"content-disposition":
            self._disposition = self._header[1]
        self._header = [b"", b""]

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        filename = options.get(b"filename")
        if filename is None:
            raise InvalidRequest("The multipart body has a part that is not a file; send one file part.")
        self._name = filename.decode(errors="replace")

    def _on_end(self) -> None:
        self._ended = True


def is_multipart(content_type: str) -> bool:
    """Whether a body has parts."""
    return bool(parse_options_header(content_type)[0] == b"multipart/form-data")


def _boundary(content_type: str) -> bytes | None:
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        return None
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= 200:
        raise InvalidRequest("The multipart body has no boundary.")
    return boundary


def _create_locked(folder: Path) -> int:
    folder.mkdir(parents=True)
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        folder.rmdir()
        raise
    # Nobody else can hold it: a sweeper leaves a folder of this age alone.
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return handle


def _unlocked(folder: Path) -> bool:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
