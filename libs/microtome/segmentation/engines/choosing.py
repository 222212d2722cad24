"""Which engine is the fastest that finds the same cells as fp32.

Promises: an engine that fails the gate is never chosen, however fast; one that fails to open or to run is passed over,
and the reason is kept. The reference itself is always a candidate, so there is always a choice.
Refuses: to measure more than the choice needs: engines are timed on a part of a picture and then held against fp32,
from the fastest on, until one passes; with a GPU that passes, CPUs are not looked at.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import numpy as np

from microtome.errors import MicrotomeError
from microtome.segmentation.engine import Engine
from microtome.segmentation.engines.gate import REQUIRED_F1, Reference, agreement, reference
from microtome.segmentation.engines.picture import judgement_pictures
from microtome.segmentation.model import Model

log = logging.getLogger(__name__)

# Each engine is timed so often, in turns, and its fastest counts: what else runs only ever makes it slower. On CPUs it
# is processor time that counts: a choice is kept for good, and beside other work an engine in bytes once waited for
# longer than one in floats computed. All of them share a tile among their threads, and the cores with the heads.
_ROUNDS = 2
# Edge of the tile on which they are timed.
_TIMED_EDGE = 384
SomeEngine = TypeVar("SomeEngine", bound=Engine)


@dataclass(frozen=True, slots=True)
class Choice:
    """The engine, its agreement with fp32 (None: too few cells to measure it), and what became of the others."""

    engine: str
    f1: float | None
    cells: int
    # Of one small tile, for every engine that was timed; of processor time on CPUs.
    milliseconds: Mapping[str, float] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def note(self) -> str:
        """What the job's user is told."""
        others = "".join(f" {name}: {reason}" for name, reason in sorted(self.refused.items()))
        if self.f1 is None:
            return (
                f"Engine {self.engine} was chosen because the model finds only {self.cells} cells on the built-in "
                f"pictures, too few to compare less exact engines with fp32.{others}"
            )
        return (
            f"Engine {self.engine} was chosen as the fastest here that finds the same cells as fp32: F1 {self.f1:.4f} "
            f"on the {self.cells} cells of the built-in pictures, where at least {REQUIRED_F1} is asked for.{others}"
        )

    def to_json(self) -> dict[str, Any]:
        """Give plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: object, here: Sequence[str]) -> Choice | None:
        """Read what `to_json` gave; None for anything else, and for an engine that is not `here`."""
        try:
            choice = cls(**values)  # type: ignore[arg-type]
            sound = (
                choice.engine in here
                and (choice.f1 is None or REQUIRED_F1 <= choice.f1 <= 1)
                and isinstance(choice.cells, int)
                and all(float(value) >= 0 for value in choice.milliseconds.values())
                and all(isinstance(reason, str) for reason in choice.refused.values())
            )
        except (TypeError, ValueError, AttributeError):
            return None
        return choice if sound else None


def choose(
    model: Model, opening: Callable[[str], SomeEngine], here: Sequence[str], reference_name: str
) -> tuple[Choice, SomeEngine]:
    """Choose among the engines `here`, from the ones expected to be fast to the slow; return it opened.

    `opening(name)` opens one; `reference_name` is fp32 on the CPU, which must be among them.
    """
    exact = opening(reference_name)
    expected = reference(exact, model, judgement_pictures(model))
    refused: dict[str, str] = {}
    timed: dict[str, float] = {}
    for kind in _by_kind(here):
        names = [name for name in kind if expected.means_something or name.endswith("fp32")]
        engines = {name: exact if name == reference_name else _opened(opening, name, refused) for name in names}
        there = {name: engine for name, engine in engines.items() if engine is not None}
        clock = time.process_time if all("cpu" in name for name in there) else time.perf_counter
        found = _timed(there, expected, refused, clock)
        timed |= found
        for name in sorted(found, key=lambda of: found[of]):
            engine = engines[name]
            assert engine is not None, "only engines that were opened were timed"
            f1 = 1.0 if name == reference_name else _agreement(name, engine, model, expected, refused)
            if f1 is not None:
                return Choice(name, f1 if expected.means_something else None, expected.cells, timed, refused), engine
    return Choice(reference_name, 1.0, expected.cells, timed, refused), exact


def _by_kind(here: Sequence[str]) -> list[list[str]]:
    """Split into engines on a GPU and engines on CPUs."""
    gpu = [name for name in here if "cpu" not in name]
    return [gpu, [name for name in here if "cpu" in name]]


def _opened(opening: Callable[[str], SomeEngine], name: str, refused: dict[str, str]) -> SomeEngine | None:
    try:
        return opening(name)
    except MicrotomeError as error:
        _refuse(name, error.detail, refused)
        return None


def _timed(
    engines: Mapping[str, Engine], expected: Reference, refused: dict[str, str], clock: Callable[[], float]
) -> dict[str, float]:
    """Milliseconds of `clock` that each engine takes for one tile; those that fail are refused."""
    picture = expected.pictures[0]
    tile = np.ascontiguousarray(picture.pixels[:, :_TIMED_EDGE, :_TIMED_EDGE])
    fastest: dict[str, float] = {}
    # The first round is not counted: memory is taken, kernels are chosen.
    for counted in (False, *([True] * _ROUNDS)):
        for name, engine in engines.items():
            if name in refused:
                continue
            try:
                began = clock()
                engine.infer(tile, picture.low, picture.scale)
                milliseconds = (clock() - began) * 1e3
            except MicrotomeError as error:
                _refuse(name, error.detail, refused)
                continue
            if counted:
                fastest[name] = min(fastest.get(name, milliseconds), milliseconds)
    return {name: round(milliseconds, 4) for name, milliseconds in fastest.items() if name not in refused}


def _agreement(name: str, engine: Engine, model: Model, expected: Reference, refused: dict[str, str]) -> float | None:
    """F1 against fp32; None if it is not enough, or if the engine failed."""
    if not expected.means_something:
        return 1.0
    try:
        f1 = agreement(engine, model, expected)
    except MicrotomeError as error:
        _refuse(name, error.detail, refused)
        return None
    if f1 < REQUIRED_F1:
        _refuse(name, f"F1 {f1:.4f}, not chosen.", refused)
        return None
    return f1


def _refuse(name: str, reason: str, refused: dict[str, str]) -> None:
    refused[name] = reason
    log.warning("engine %s is passed over: %s", name, reason)
