"""Clearing up after tilers that were killed.

Promises: pixels of jobs that do not run any more are gone after the next start of a tiler, also of jobs that were
cancelled while no tiler was there to hear of it.
Refuses: to touch anything in the folder that does not look like the pixels of a job.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from pathlib import Path

from microtome.readmodels.queries import Queries
from microtome.tilestore import LocalPixelStore

log = logging.getLogger(__name__)


async def clear_tile_store(queries: Queries, folder: Path) -> None:
    """Forget the pixels of all jobs that do not run. Raises `Unavailable`."""
    pixels = LocalPixelStore(folder)
    # In this order: a job whose pixels are seen now and that does not run afterwards has ended.
    seen = await asyncio.to_thread(_jobs, folder)
    running = {record.job.job_id for record in await queries.running()}
    for job_id in sorted(seen - running):
        await asyncio.to_thread(pixels.discard_prefix, job_id)
        log.info("cleared the pixels of a job that does not run", extra={"job_id": job_id})


def _jobs(folder: Path) -> set[str]:
    """The job ids under which attempts lie."""
    return {path.name for path in folder.iterdir() if _is_uuid(path.name) and _holds_attempts(path)}


def _holds_attempts(folder: Path) -> bool:
    try:
        return all(attempt.name.isdecimal() for attempt in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):  # the first: another tiler was faster
        return False


def _is_uuid(name: str) -> bool:
    try:
        return str(uuid.UUID(name)) == name
    except ValueError:
        return False
