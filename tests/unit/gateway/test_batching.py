"""Questions asked at once are asked as one, and never answered from before they were asked."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from microtome.errors import Unavailable
from services.gateway.batching import LARGEST, Batches


class Source:
    """Counts up; a batch takes as long as the gate is closed."""

    def __init__(self) -> None:
        self.value = 0
        self.batches: list[list[str]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.broken = False

    async def fetch(self, keys: Sequence[str]) -> Mapping[str, int]:
        self.batches.append(list(keys))
        seen = self.value
        await self.gate.wait()
        if self.broken:
            raise Unavailable
        return {key: seen for key in keys if key != "unknown"}


async def test_many_at_once_are_one() -> None:
    source = Source()
    batches = Batches(source.fetch)
    answers = await asyncio.gather(*(batches.ask(key) for key in ("a", "b", "a", "unknown")))
    assert answers == [0, 0, 0, None]
    assert source.batches == [["a", "b", "unknown"]]


async def test_no_answer_is_older_than_its_question() -> None:
    source = Source()
    source.gate.clear()
    batches = Batches(source.fetch)
    early = asyncio.create_task(batches.ask("a"))
    while not source.batches:
        await asyncio.sleep(0)
    # Somebody writes, and asks while a batch from before is still under way.
    source.value = 1
    late = asyncio.create_task(batches.ask("a"))
    await asyncio.sleep(0)
    source.gate.set()
    assert (await early, await late) == (0, 1)


async def test_an_error_reaches_everybody_and_ends_nothing() -> None:
    source = Source()
    source.broken = True
    batches = Batches(source.fetch)
    failed = await asyncio.gather(*(batches.ask("a") for _ in range(3)), return_exceptions=True)
    assert [type(error) for error in failed] == [Unavailable] * 3
    source.broken = False
    assert await batches.ask("a") == 0


async def test_who_gives_up_takes_nobody_along() -> None:
    source = Source()
    source.gate.clear()
    batches = Batches(source.fetch)
    leaving, staying = (asyncio.create_task(batches.ask("a")) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    source.gate.set()
    assert await staying == 0
    with pytest.raises(asyncio.CancelledError):
        await leaving


async def test_batches_have_a_bound() -> None:
    source = Source()
    batches = Batches(source.fetch)
    await asyncio.gather(*(batches.ask(str(number)) for number in range(LARGEST + 1)))
    assert [len(batch) for batch in source.batches] == [LARGEST, 1]
