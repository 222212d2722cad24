"""From a received file to a fact: inspect it, settle its pixel size, move it into place, record it.

Promises: a slide that is recorded lies complete under its path; a file that cannot be read leaves neither a file
nor an event; a client that leaves changes nothing about either.
Refuses: to guess a pixel size; without one the slide says "unknown".
"""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass

from microtome.contracts.messages import MppSource, SlideLevel, SlideRegistered, Stain
from microtome.errors import ConcurrencyConflict, InvalidRequest, MicrotomeError, Unavailable
from microtome.eventlog.log import Append, EventLog
from microtome.slides.facts import SlideFacts
from microtome.slides.sandbox import inspect_sandboxed
from microtome.workflows import new_event
from services.gateway.uploads import Draft, Received

_INSPECTIONS = 2
_APPEND_TRIES = 4
_NAMESPACE = uuid.UUID("6f1c5d8e-5d0b-4d43-8f0d-0f6f9f0f3a11")
_SOURCES = {
    "vendor": MppSource.VENDOR,
    "resolution_tag": MppSource.RESOLUTION_TAG,
    "unknown": MppSource.UNKNOWN,
}
_STAINS = {"brightfield": Stain.BRIGHTFIELD, "fluorescence": Stain.FLUORESCENCE}


@dataclass(frozen=True, slots=True)
class PixelSizeWish:
    """What the user says about the pixel size, in µm per level-0 pixel: known, or assumed if the file is silent."""

    mpp: float | None = None
    assume_mpp: float | None = None

    def __post_init__(self) -> None:
        if self.mpp is not None and self.assume_mpp is not None:
            raise InvalidRequest("Give mpp (you know it) or assume_mpp (you assume it), not both.")


def settle_pixel_size(facts: SlideFacts, wish: PixelSizeWish) -> tuple[float | None, MppSource, tuple[str, ...]]:
    """The pixel size to use, where it comes from, and what must be said about it."""
    if wish.mpp is not None:
        note: tuple[str, ...] = ()
        if facts.mpp is not None and abs(facts.mpp / wish.mpp - 1) > 0.02:
            note = (f"The file says {facts.mpp:.4g} µm per pixel; the given {wish.mpp:.4g} is used instead.",)
        return wish.mpp, MppSource.USER, note
    if wish.assume_mpp is not None:
        if facts.mpp is None:
            note = (f"The pixel size of {wish.assume_mpp:.4g} µm is an assumption; sizes follow from it.",)
            return wish.assume_mpp, MppSource.ASSUMED, note
        note = (f"The file says {facts.mpp:.4g} µm per pixel, so assume_mpp was not needed.",)
        return facts.mpp, _SOURCES[facts.mpp_source], note
    return facts.mpp, _SOURCES[facts.mpp_source], ()


class Registrar:
    """Turns uploads into slides."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._inspecting = asyncio.Semaphore(_INSPECTIONS)
        self._commits: set[asyncio.Task[None]] = set()

    async def finish(self) -> None:
        """Wait for slides that are being recorded although their request is over."""
        await asyncio.gather(*self._commits, return_exceptions=True)

    async def register(
        self, draft: Draft, received: Received, *, slide_id: str, user_id: str, wish: PixelSizeWish
    ) -> None:
        """Inspect, publish and record. Raises `UnreadableSlide`, `TooLarge`, `Unavailable`."""
        async with self._inspecting:
            facts = await inspect_sandboxed(received.path, sha256=received.sha256)
        registered = _registered(facts, received, wish, slide_id=slide_id, user_id=user_id)
        event = new_event(registered, user_id, event_id=uuid.uuid5(_NAMESPACE, f"slide-{slide_id}"))
        # From the rename to the append nothing may interrupt: a slide is both or neither.
        draft.handed_over = True
        commit = asyncio.create_task(self._commit(draft, Append(f"slide-{slide_id}", 0, (event,))))
        self._commits.add(commit)
        commit.add_done_callback(self._commits.discard)
        await asyncio.shield(commit)

    async def _commit(self, draft: Draft, append: Append) -> None:
        try:
            await asyncio.to_thread(draft.publish)
            try:
                await self._append(append)
            except Unavailable:
                # It may have been stored before the connection broke, or be so in a moment. The folder keeps its
                # mark, and the sweeper asks the log when that answers again.
                raise
            except MicrotomeError:
                await asyncio.to_thread(draft.withdraw)
                raise
            await asyncio.to_thread(draft.confirm)
        finally:
            draft.close()

    async def _append(self, append: Append) -> None:
        """Append, trying again where that can help. Raises `Unavailable` when it may yet turn out to be stored."""
        unsure = False
        for attempt in range(_APPEND_TRIES):
            try:
                await self._log.append(append)
            except (Unavailable, ConcurrencyConflict) as error:
                unsure = unsure or isinstance(error, Unavailable)
                if attempt < _APPEND_TRIES - 1:
                    await asyncio.sleep(0.5 * 2**attempt)
                elif unsure:
                    raise Unavailable from error
                else:
                    raise
            else:
                return


def _registered(
    facts: SlideFacts, received: Received, wish: PixelSizeWish, *, slide_id: str, user_id: str
) -> SlideRegistered:
    mpp, source, notes = settle_pixel_size(facts, wish)
    return SlideRegistered(
        slide_id=slide_id,
        user_id=user_id,
        filename=received.filename,
        size_bytes=received.size_bytes,
        sha256=received.sha256,
        vendor=facts.vendor,
        width=facts.width,
        height=facts.height,
        mpp=mpp,
        mpp_source=source,
        objective_power=facts.objective_power,
        stain=_STAINS[facts.stain],
        levels=tuple(
            SlideLevel(width=level.width, height=level.height, downsample=level.downsample) for level in facts.levels
        ),
        notes=(*facts.notes, *notes),
        path=f"slides/{slide_id}/{received.filename}",
    )
