"""From the last byte of a resumable upload to a slide.

Promises: an upload that came whole becomes a slide exactly as one that came in one request, also when the client or
the gateway goes away meanwhile: whoever sweeps next finishes it, and registering it again changes nothing. A file
that is refused is gone, and the upload says why until it expires. Expired uploads are removed.
Refuses: to sweep what somebody is writing to, and to let one upload that cannot be dealt with hold up the others.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Coroutine
from pathlib import Path

from microtome.errors import MicrotomeError
from microtome.eventlog.log import EventLog
from microtome.reservations.uploads import Upload, Uploads
from services.gateway.announcing import Announcement
from services.gateway.integrity import check_file
from services.gateway.registration import Registrar
from services.gateway.resumable import Incoming, ResumableStore, UploadLocked
from services.gateway.uploads import Received, UploadStore

_REMEMBERED_S = 24 * 3600.0
_REQUEST_GONE_S = 60.0

logger = logging.getLogger(__name__)


class Completion:
    """Makes slides of uploads that came whole."""

    def __init__(
        self, store: ResumableStore, uploads: UploadStore, rows: Uploads, registrar: Registrar, log: EventLog
    ) -> None:
        self._store = store
        self._uploads = uploads
        self._rows = rows
        self._registrar = registrar
        self._log = log
        self._tasks: set[asyncio.Task[None]] = set()

    async def stop(self) -> None:
        """Leave what is not recorded yet to the next process."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def complete(self, upload: Upload, incoming: Incoming) -> None:
        """Make the slide; the upload's lock is this task's from now on, whether or not the caller stays.

        Raises `UnreadableSlide`, `TooLarge`, `ChecksumMismatch` for a file that is refused for good, and what may
        pass: `Unavailable`, `OSError`.
        """
        incoming.handed_over = True
        task = asyncio.create_task(self._complete(upload, incoming), name=f"register {upload.upload_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.shield(task)

    async def sweep(self) -> None:
        """Finish what came whole, remove what expired, forget what nobody asks for any more. Raises `Unavailable`."""
        uploads = {upload.upload_id: upload for upload in await self._rows.everything()}
        for upload in uploads.values():
            await self._tried(upload.upload_id, self._look_at(upload))
        for upload_id in await asyncio.to_thread(self._store.folders):
            if upload_id not in uploads:
                await self._tried(upload_id, self._remove(upload_id))

    async def _tried(self, upload_id: str, step: Coroutine[None, None, None]) -> None:
        try:
            await step
        except UploadLocked:
            return
        except (MicrotomeError, OSError) as error:
            # Refused for good, and the upload says so; or it is tried again.
            logger.warning("upload %s: %s", upload_id, error)
        except Exception:
            logger.exception("upload %s cannot be dealt with for now", upload_id)

    async def _look_at(self, upload: Upload) -> None:
        if not upload.resumable:
            # Its request ended long ago, or its gateway was killed.
            arriving = await asyncio.to_thread(self._uploads.arriving, upload.upload_id)
            if not arriving and upload.age_seconds > _REQUEST_GONE_S:
                await self._rows.remove(upload.upload_id)
        elif upload.expired:
            await self._remove(upload.upload_id)
        elif upload.open and await self._store.offset(upload.upload_id) == upload.size_bytes:
            async with self._store.locked(upload.upload_id) as incoming:
                await self.complete(upload, incoming)

    async def _remove(self, upload_id: str) -> None:
        try:
            async with self._store.locked(upload_id) as incoming:
                await self._rows.remove(upload_id)
                await asyncio.to_thread(incoming.drop)
        except UploadLocked:
            return

    async def _complete(self, upload: Upload, incoming: Incoming) -> None:
        try:
            if not await self._log.read_stream(f"slide-{upload.upload_id}"):
                await self._register(upload, incoming)
            await self._rows.finish(upload.upload_id, _REMEMBERED_S)
            await asyncio.to_thread(incoming.drop)
        except MicrotomeError as error:
            if not error.transient:
                await self._rows.fail(upload.upload_id, error, _REMEMBERED_S)
                await asyncio.to_thread(incoming.drop)
            raise
        finally:
            incoming.close()

    async def _register(self, upload: Upload, incoming: Incoming) -> None:
        announced = Announcement.parse(upload.metadata)
        sha256 = await incoming.sha256()
        check_file(announced.sha256, sha256)
        # A killed gateway may have come as far as the rename.
        await asyncio.to_thread(self._uploads.clear, upload.upload_id)
        async with self._uploads.draft(upload.upload_id) as draft:
            path = draft.folder / announced.filename
            await asyncio.to_thread(_link, incoming.content, path)
            received = Received(path, announced.filename, incoming.offset, sha256)
            await self._registrar.register(
                draft, received, slide_id=upload.upload_id, user_id=upload.user_id, wish=announced.wish
            )


def _link(content: Path, path: Path) -> None:
    """Give the bytes a second name, so that they stay with the upload until the slide is recorded."""
    try:
        path.hardlink_to(content)
    except OSError:
        # There are file systems without links.
        shutil.copyfile(content, path)
