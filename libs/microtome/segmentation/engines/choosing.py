"""Which engine is the fastest that finds the same cells as fp32.

Promises: an engine that fails the gate is never chosen, however fast; one that fails to open or to run is passed over,
and the reason is kept. The reference itself is always a candidate, so there is always a choice.
Refuses: to look at more of a slower kind of machine once a faster kind has passed: with a GPU, CPUs are not measured.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from microtome.errors import MicrotomeError
from microtome.segmentation.engine import Engine
from microtome.segmentation.engines.gate import REQUIRED_F1, Reference, agreement, reference
from microtome.segmentation.engines.picture import judgement_pictures
from microtome.segmentation.model import Model

log = logging.getLogger(__name__)

# Each engine is timed so often, in turns, and its fastest counts: what else runs only ever makes it slower.
_ROUNDS = 2
SomeEngine = TypeVar("SomeEngine", bound=Engine)


@dataclass(frozen=True, slots=True)
class Choice:
    """The engine, its agreement with fp32 (None: too few cells to measure it), and what became of the others."""

    engine: str
    f1: float | None
    cells: int
    # Of one built-in picture, for every engine that passed.
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
                and all(float(value) > 0 for value in choice.milliseconds.values())
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
    passed: dict[str, SomeEngine] = {}
    f1s: dict[str, float] = {reference_name: 1.0}
    refused: dict[str, str] = {}
    for kind in _by_kind(here):
        for name in kind:
            if name == reference_name or not (expected.means_something or name.endswith("fp32")):
                continue
            try:
                engine = opening(name)
                f1s[name] = agreement(engine, model, expected)
            except MicrotomeError as error:
                refused[name] = error.detail
                log.warning("engine %s is passed over: %s", name, error)
                continue
            if expected.means_something and f1s[name] < REQUIRED_F1:
                refused[name] = f"F1 {f1s[name]:.4f}, not chosen."
                log.warning("engine %s is passed over: its F1 against fp32 is %.4f", name, f1s[name])
            else:
                passed[name] = engine
        if passed:
            break
    if not passed or any(name.split("-")[1] == "cpu" for name in passed):
        passed[reference_name] = exact
    fastest = _timed(passed, expected)
    name = min(fastest, key=lambda of: fastest[of])
    f1 = f1s[name] if expected.means_something else None
    return Choice(name, f1, expected.cells, fastest, refused), passed[name]


def _by_kind(here: Sequence[str]) -> list[list[str]]:
    """Split into engines on a GPU and engines on CPUs."""
    gpu = [name for name in here if "cpu" not in name]
    return [gpu, [name for name in here if "cpu" in name]]


def _timed(engines: Mapping[str, Engine], expected: Reference) -> dict[str, float]:
    """Milliseconds that each engine takes for the first picture; all have run before."""
    picture = expected.pictures[0]
    fastest = dict.fromkeys(engines, float("inf"))
    for _ in range(_ROUNDS):
        for name, engine in engines.items():
            began = time.perf_counter()
            engine.infer(picture.pixels, picture.low, picture.scale)
            fastest[name] = min(fastest[name], (time.perf_counter() - began) * 1e3)
    return {name: round(milliseconds, 3) for name, milliseconds in fastest.items()}
