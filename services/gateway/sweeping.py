"""What was left half done: slides that were moved into place but perhaps never recorded, uploads that came whole but
are no slide yet, outlines that are half written, files of what is deleted. The log decides.

Promises: what an outage or a kill left between the rename and the append is either confirmed or removed, within
minutes after the log answers again; the rest is finished just so. Refuses: to touch a folder that was ever confirmed;
a database that was restored from an old copy must not cost slides.
"""

from __future__ import annotations

import asyncio
import logging

from microtome.errors import MicrotomeError
from microtome.eventlog.log import EventLog
from services.gateway.completion import Completion
from services.gateway.deletion import Deletions
from services.gateway.uploads import UploadStore

SWEEP_EVERY_S = 60.0

logger = logging.getLogger(__name__)


class Sweeper:
    """Looks at the start and every minute. Several gateways may sweep the same folders."""

    def __init__(self, uploads: UploadStore, log: EventLog, completion: Completion, deletions: Deletions) -> None:
        self._uploads = uploads
        self._log = log
        self._completion = completion
        self._deletions = deletions
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.create_task(self._run(), name="sweep slides")

    async def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def sweep(self) -> None:
        """Decide on every folder that nobody is at work on. Raises `Unavailable`."""
        for slide_id in await asyncio.to_thread(self._uploads.unrecorded):
            if await self._log.read_stream(f"slide-{slide_id}"):
                await asyncio.to_thread(self._uploads.confirm, slide_id)
            else:
                await asyncio.to_thread(self._uploads.remove, slide_id)
                logger.warning("slide %s was never recorded; its file is removed", slide_id)
        dropped = await asyncio.to_thread(self._uploads.drop_leftovers)
        if dropped:
            logger.warning("%d drawn outlines were never kept whole; they are removed", dropped)

    async def _run(self) -> None:
        while True:
            # Each by itself: what goes wrong with one must not keep the others from being done.
            for sweep in (self.sweep, self._completion.sweep, self._deletions.sweep):
                try:
                    await sweep()
                except (MicrotomeError, OSError) as error:
                    logger.warning("what is half done is looked at later: %s", error)
                except Exception:
                    logger.exception("what is half done is looked at later")
            await asyncio.sleep(SWEEP_EVERY_S)
