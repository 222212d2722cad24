"""`auto` takes the fastest engine that finds the same cells as fp32, measures once, and trusts no damaged memory."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from microtome.segmentation.engine import Engine, EngineFailed, EngineUnavailable, OnnxRuntimeEngine
from microtome.segmentation.engines import available_engines, choosing, memory, open_engine, opening
from microtome.segmentation.engines.choosing import Choice, choose
from microtome.segmentation.engines.gate import ENOUGH_CELLS, REQUIRED_F1, agreement, reference
from microtome.segmentation.engines.picture import Picture, calibration_pictures, judgement_pictures
from microtome.segmentation.model import Model

REFERENCE = "onnxruntime-cpu-fp32"


@pytest.fixture(scope="module")
def pictures(model: Model) -> list[Picture]:
    return judgement_pictures(model)


@pytest.fixture(scope="module")
def exact(engine: OnnxRuntimeEngine) -> Engine:
    """The reference, which computes each picture once."""
    return Broken(REFERENCE, engine, same)


@pytest.fixture(autouse=True)
def painted_once(monkeypatch: pytest.MonkeyPatch, pictures: list[Picture]) -> None:
    monkeypatch.setattr(choosing, "judgement_pictures", lambda _: pictures)


class Broken:
    """The exact engine, with something done to its logits; much faster than it, if it is asked for the same again."""

    note = None
    batch_size = 1

    def __init__(self, name: str, engine: Engine, harm: object) -> None:
        self.name = name
        self._engine = engine
        self._harm = harm
        self._kept: dict[bytes, NDArray[np.float32]] = {}

    def infer(
        self, pixels: NDArray[np.uint8], low: NDArray[np.float32], scale: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        key = pixels[:, ::7, ::7].tobytes()
        if key not in self._kept:
            self._kept[key] = self._harm(self._engine.infer(pixels, low, scale))  # type: ignore[operator]
        return self._kept[key]


class Slow:
    """An engine that takes its time."""

    name = REFERENCE
    note = None
    batch_size = 1

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def infer(
        self, pixels: NDArray[np.uint8], low: NDArray[np.float32], scale: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        time.sleep(0.2)
        return self._engine.infer(pixels, low, scale)


def rough(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return logits + np.random.default_rng(0).normal(0, 0.7, logits.shape).astype(np.float32)


def shifted(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.roll(logits, 4, axis=3)


def unsure(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    lower = logits.copy()
    lower[:, 4] -= 1.0
    return lower


def same(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return logits


def fails(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    raise EngineFailed("the device gave out")


@pytest.mark.parametrize("harm", [rough, shifted, unsure])
def test_an_engine_that_finds_other_cells_is_refused_however_fast(model: Model, exact: Engine, harm: object) -> None:
    engines = {REFERENCE: Slow(exact), "openvino-cpu-int8": Broken("openvino-cpu-int8", exact, harm)}
    choice, chosen = choose(model, engines.__getitem__, list(engines), REFERENCE)
    assert chosen is engines[REFERENCE]
    assert choice.engine == REFERENCE
    assert choice.f1 == 1.0
    refused = float(choice.refused["openvino-cpu-int8"].split()[1].rstrip(","))
    assert refused < REQUIRED_F1
    assert choice.refused["openvino-cpu-int8"] in choice.note


def test_the_fastest_that_passes_is_taken(model: Model, exact: Engine) -> None:
    engines = {REFERENCE: Slow(exact), "openvino-cpu-bf16": Broken("openvino-cpu-bf16", exact, same)}
    choice, chosen = choose(model, engines.__getitem__, list(engines), REFERENCE)
    assert chosen is engines["openvino-cpu-bf16"]
    assert choice.milliseconds["openvino-cpu-bf16"] < choice.milliseconds[REFERENCE]
    assert "F1 1.0000" in choice.note


def test_an_engine_that_fails_is_passed_over(model: Model, exact: Engine) -> None:
    def open_one(name: str) -> Engine:
        if name == "tensorrt-fp16":
            raise EngineUnavailable("no driver")
        return {REFERENCE: exact, "openvino-cpu-int8": Broken(name, exact, fails)}[name]

    choice, chosen = choose(model, open_one, ["tensorrt-fp16", "openvino-cpu-int8", REFERENCE], REFERENCE)
    assert chosen is exact
    assert dict(choice.refused) == {"tensorrt-fp16": "no driver", "openvino-cpu-int8": "the device gave out"}


def test_with_a_gpu_that_passes_no_cpu_is_measured(model: Model, exact: Engine) -> None:
    opened: list[str] = []

    def open_one(name: str) -> Engine:
        opened.append(name)
        return exact if name == REFERENCE else Broken(name, exact, same)

    choice, _ = choose(model, open_one, ["onnxruntime-cuda-fp16", "openvino-cpu-int8", REFERENCE], REFERENCE)
    assert choice.engine == "onnxruntime-cuda-fp16"
    assert opened == [REFERENCE, "onnxruntime-cuda-fp16"]


def test_with_too_few_cells_only_fp32_is_trusted(model: Model, exact: Engine) -> None:
    def blind(logits: NDArray[np.float32]) -> NDArray[np.float32]:
        none = logits.copy()
        none[:, 4] = -8
        return none

    engines = {
        REFERENCE: Broken(REFERENCE, exact, blind),
        "openvino-cpu-int8": Broken("openvino-cpu-int8", exact, blind),
    }
    choice, _ = choose(model, engines.__getitem__, list(engines), REFERENCE)
    assert choice.engine == REFERENCE
    assert choice.f1 is None
    assert "too few" in choice.note


def test_the_pictures_have_enough_cells_and_are_always_the_same(
    model: Model, exact: Engine, pictures: list[Picture]
) -> None:
    expected = reference(exact, model, pictures)
    assert expected.cells > 2 * ENOUGH_CELLS
    assert agreement(exact, model, expected) == 1.0
    again = [picture.pixels for picture in (*judgement_pictures(model), *calibration_pictures(model))]
    assert all((one.pixels == other).all() for one, other in zip(pictures, again, strict=False))
    assert len({pixels.tobytes() for pixels in again}) == len(again), "ranges are measured on what is judged by"


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch, engine: Engine) -> list[str]:
    """Models for which a choice was made; made at once, for the reference."""
    made: list[str] = []

    def quickly(model: Model, open_one: object, here: object, name: str) -> tuple[Choice, Engine]:
        made.append(model.digest)
        return Choice(name, 1.0, 631, {name: 1.0}, {}), OnnxRuntimeEngine(model)

    monkeypatch.setattr(opening, "choose", quickly)
    return made


def test_a_choice_is_made_once_for_the_same_facts(model: Model, counted: list[str], tmp_path: Path) -> None:
    first = open_engine(model, cache=tmp_path)
    second = open_engine(model, cache=tmp_path)
    assert first.name == second.name == REFERENCE
    assert first.note == second.note
    assert len(counted) == 1
    open_engine(model, threads=1, cache=tmp_path)
    assert len(counted) == 2
    open_engine(dataclasses.replace(model, digest="0" * 64), cache=tmp_path)
    assert len(counted) == 3


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"[]",
        b'{"facts": {}, "measured": {}}',
        {"engine": "abacus", "f1": 1.0, "cells": 631},
        {"engine": "tensorrt-fp16", "f1": 1.0, "cells": 631},
        {"engine": "openvino-cpu-int8", "f1": 0.5, "cells": 631},
        {"engine": "openvino-cpu-int8", "f1": "good", "cells": 631},
        {"engine": "openvino-cpu-int8", "f1": 1.0, "cells": 631, "speed": "great"},
        {"engine": 7},
        None,
        "openvino-cpu-int8",
    ],
)
def test_a_damaged_memory_is_as_good_as_none(damage: object, model: Model, counted: list[str], tmp_path: Path) -> None:
    open_engine(model, cache=tmp_path)
    (file,) = tmp_path.glob("*.json")
    if isinstance(damage, bytes):
        file.write_bytes(damage)
    else:
        kept = json.loads(file.read_text())
        file.write_text(json.dumps({**kept, "measured": damage}))
    assert open_engine(model, cache=tmp_path).name == REFERENCE
    assert len(counted) == 2
    assert json.loads(file.read_text())["measured"]["engine"] == REFERENCE
    open_engine(model, cache=tmp_path)
    assert len(counted) == 2


def test_other_versions_are_measured_again(
    model: Model, counted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_engine(model, cache=tmp_path)
    monkeypatch.setattr(memory, "version", lambda _: "99.0")
    open_engine(model, cache=tmp_path)
    monkeypatch.setattr(memory, "processor", lambda: {"name": "another"})
    open_engine(model, cache=tmp_path)
    assert len(counted) == 3


def test_without_a_folder_to_write_to_everything_works(model: Model, counted: list[str], tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    for _ in range(2):
        assert open_engine(model, cache=blocked / "cache").name == REFERENCE
    assert len(counted) == 2


def test_a_choice_among_engines_on_a_gpu_is_that_gpus(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another GPU or driver is another machine; without engines for a GPU nobody asks for one."""
    tool = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    here = [REFERENCE, "onnxruntime-cuda-fp16"]

    def with_driver(driver: str) -> dict[str, object]:
        tool.write_text(f"#!/bin/sh\necho 'NVIDIA A10G, {driver}'\n")
        tool.chmod(0o755)
        return memory.facts(model, 2, here)

    before = with_driver("550.54.15")
    assert before["gpu"] == {"devices": ["NVIDIA A10G, 550.54.15"], "visible": None}
    memory.remember(tmp_path / "kept", before, "fp16")
    assert memory.recall(tmp_path / "kept", with_driver("550.54.15")) == "fp16"
    assert memory.recall(tmp_path / "kept", with_driver("570.86.10")) is None
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert memory.facts(model, 2, here)["gpu"] == {"devices": [], "visible": None}
    assert "gpu" not in memory.facts(model, 2, [REFERENCE])


def test_without_openvino_one_of_the_others_is_chosen(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    engine = open_engine(model, cache=tmp_path)
    assert engine.name.startswith("onnxruntime")
    assert "not installed" in str(available_engines()["openvino-cpu-fp32"])
    with pytest.raises(EngineUnavailable, match=REFERENCE):
        open_engine(model, "openvino-cpu-int8", cache=tmp_path)


@pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed on machines of this kind")
def test_what_was_measured_is_taken_from_the_users_cache(
    model: Model, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was put there, and nothing where the model lies: the fixture sees to that."""
    written = {path: path.stat().st_mtime_ns for path in cache.rglob("*.json")}
    assert written
    monkeypatch.setenv("MICROTOME_CACHE_DIR", str(cache.parent))
    open_engine(model, "openvino-cpu-int8")
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.json")} == written


def _measure(folder: Path, log: Path) -> None:
    of = {"what": "a test"}
    with memory.alone(folder, of):
        if memory.recall(folder, of) is None:
            with log.open("a") as file:
                file.write("measured\n")
            time.sleep(0.3)
            memory.remember(folder, of, {"value": 1})


def test_of_several_processes_one_measures_and_the_others_wait(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("spawn")
    processes = [fork.Process(target=_measure, args=(tmp_path / "cache", tmp_path / "log")) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "measured\n"
    assert memory.recall(tmp_path / "cache", {"what": "a test"}) == {"value": 1}
