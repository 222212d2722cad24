"""What both heads are given, and the file that keeps it. Needs numpy alone: it runs beside the package too."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

# Logits of the recorded tiles are multiples of 1 / GRAIN: a machine's last bit cannot change them, and they pack well.
GRAIN = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the package's head is told."""

    seed_threshold: float = 0.4
    peak_distance: int = 5
    mask_threshold: float = 0.53
    overlap_threshold: float = 0.3
    window: int = 32


@dataclass(frozen=True, eq=False, kw_only=True)
class Case:
    """One image. `logits` float32 [5, h, w]; `classifier`: name of the pixel classifier's weights.

    `pixels` float32 [3, h, w] instead of logits: a network made by the package, from this random `network` seed, makes
    the logits of them. `labels` int32 [h, w]: the package's, where known.
    """

    name: str
    family: str
    classifier: str
    settings: Settings = field(default_factory=Settings)
    logits: np.ndarray | None = None
    pixels: np.ndarray | None = None
    network: int | None = None
    labels: np.ndarray | None = None

    @property
    def digest(self) -> str:
        """Identity of the logits."""
        assert self.logits is not None
        return hashlib.sha256(np.ascontiguousarray(self.logits, "<f4").tobytes()).hexdigest()


@dataclass(frozen=True, eq=False)
class Suite:
    """Cases, the classifiers that they name (float32 [61], as `PixelClassifier.flat`), and the package's coordinates:
    for an edge of n pixels float32 [n].
    """

    cases: list[Case]
    classifiers: Mapping[str, np.ndarray]
    coordinates: Mapping[int, np.ndarray] = field(default_factory=dict)


def save(suite: Suite, path: Path, recipes: Iterable[str] = ()) -> None:
    """Write a suite. Of the cases named in `recipes` the labels only: `tiles.recipes` makes the logits again."""
    made_again = set(recipes)
    arrays: dict[str, np.ndarray] = {f"classifier/{name}": flat for name, flat in suite.classifiers.items()}
    arrays |= {f"coordinates/{edge}": line for edge, line in suite.coordinates.items()}
    index = []
    for case in suite.cases:
        facts = {"name": case.name, "family": case.family, "classifier": case.classifier, "network": case.network}
        facts["settings"] = asdict(case.settings)
        if case.logits is not None:
            facts["digest"] = case.digest
            if case.name not in made_again:
                arrays |= _packed(f"logits/{case.name}", case.logits)
        if case.pixels is not None:
            arrays[f"pixels/{case.name}"] = case.pixels
        if case.labels is not None:
            arrays[f"labels/{case.name}"] = _steps(case.labels.astype(np.int32))
        index.append(facts)
    arrays["index"] = np.frombuffer(json.dumps(index).encode(), np.uint8)
    np.savez_compressed(path, **arrays)


def load(path: Path, made_again: Mapping[str, np.ndarray] | None = None) -> Suite:
    """Read what `save` wrote; logits that are not in the file are taken from `made_again`."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    cases = []
    for facts in json.loads(arrays["index"].tobytes()):
        name, digest = facts["name"], facts.pop("digest", None)
        facts["settings"] = Settings(**facts["settings"])
        labels = arrays.get(f"labels/{name}")
        case = Case(
            **facts,
            logits=_unpacked(arrays, f"logits/{name}"),
            pixels=arrays.get(f"pixels/{name}"),
            labels=None if labels is None else np.cumsum(labels, axis=1, dtype=np.int32),
        )
        if case.logits is None and case.pixels is None and made_again is not None:
            case = replace(case, logits=made_again[name])
        if digest is not None and case.digest != digest:
            raise AssertionError(f"The logits of {name} are not those that were recorded.")
        cases.append(case)
    return Suite(cases, _under(arrays, "classifier"), {int(k): v for k, v in _under(arrays, "coordinates").items()})


def _under(arrays: Mapping[str, np.ndarray], folder: str) -> dict[str, np.ndarray]:
    return {name.split("/", 1)[1]: array for name, array in arrays.items() if name.startswith(f"{folder}/")}


def _steps(values: np.ndarray) -> np.ndarray:
    return np.diff(values, axis=-1, prepend=np.zeros((*values.shape[:-1], 1), values.dtype))


def _packed(name: str, logits: np.ndarray) -> dict[str, np.ndarray]:
    grains = np.rint(logits * np.float32(GRAIN)).astype(np.int16)
    again = grains.astype(np.float32) / np.float32(GRAIN)
    if again.tobytes() == np.ascontiguousarray(logits).tobytes():
        return {f"{name}/grains": _steps(grains)}
    # All first bytes, then all second ones: what varies little stands together.
    raw = np.ascontiguousarray(logits, "<f4")
    return {f"{name}/bytes": raw.view(np.uint8).reshape(*raw.shape, 4).transpose(3, 0, 1, 2).copy()}


def _unpacked(arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray | None:
    if f"{name}/grains" in arrays:
        return np.cumsum(arrays[f"{name}/grains"], axis=-1, dtype=np.int16).astype(np.float32) / np.float32(GRAIN)
    if f"{name}/bytes" in arrays:
        return np.ascontiguousarray(arrays[f"{name}/bytes"].transpose(1, 2, 3, 0)).view("<f4")[..., 0]
    return None
