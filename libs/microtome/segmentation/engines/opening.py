"""Opening the engine that was asked for.

Promises: what comes back is what was asked for; `auto` is measured once for each model, machine and version, and
remembered. Refuses, with `EngineUnavailable`: engines that this machine does not have, naming those that it has.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from microtome.errors import ConfigurationError, MicrotomeError
from microtome.segmentation.engine import Engine, EngineUnavailable, OnnxRuntimeEngine, usable_cores
from microtome.segmentation.engines import memory
from microtome.segmentation.engines.calibration import calibrated
from microtome.segmentation.engines.choosing import Choice, choose
from microtome.segmentation.engines.microtome_cpu import MicrotomeEngine
from microtome.segmentation.engines.onnxruntime_gpu import GpuEngine, gpu_engines_offered
from microtome.segmentation.engines.openvino_cpu import OpenVinoEngine, Precision, has_bf16, openvino_module
from microtome.segmentation.engines.vectors import missing
from microtome.segmentation.model import Model
from microtome.segmentation.wishes import AUTO, ENGINES

log = logging.getLogger(__name__)

REFERENCE = "onnxruntime-cpu-fp32"
_Opened = OnnxRuntimeEngine | OpenVinoEngine | MicrotomeEngine | GpuEngine
_OWN = "microtome-cpu-fp32"
# More would take more memory than they are worth: each keeps that of the largest tile, 0.7 GB in int8.
MOST_LANES = 4
_FP32 = (REFERENCE, "openvino-cpu-fp32", _OWN, "onnxruntime-cuda-fp32")


@dataclass(frozen=True, slots=True)
class _Place:
    """What every opening needs to know."""

    model: Model
    threads: int
    folder: Path | None
    lanes: int


def open_engine(model: Model, wish: str = AUTO, threads: int = 0, cache: Path | None = None, lanes: int = 0) -> Engine:
    """Open the engine of this name, or with "auto" the fastest that finds the same cells as fp32.

    `threads`: cores for the network, 0 for all that this process may use. `cache`: the folder for what is measured
    once; None for the user's. `lanes`: how many calls may run at the same time, of an engine that can have several; 0:
    one for each core, but not more than `MOST_LANES`.
    Raises `EngineUnavailable` for an engine that is not to be had here and `ConfigurationError` for one that nobody
    knows.
    """
    if min(threads, lanes) < 0:
        raise ConfigurationError(f"An engine cannot run on {threads} threads in {lanes} lanes.")
    if wish != AUTO and wish not in ENGINES:
        raise ConfigurationError(f"There is no engine '{wish}'. There are: {AUTO}, {', '.join(ENGINES)}.")
    place = _Place(model, threads or usable_cores(), cache or memory.default_folder(), lanes or MOST_LANES)
    if wish == AUTO:
        return _automatic(place)
    try:
        engine = _open(wish, place)
    except EngineUnavailable as error:
        here = ", ".join(name for name, reason in available_engines().items() if reason is None)
        raise EngineUnavailable(
            f"Engine '{wish}' is not to be had here. {error.detail} To be had are: {here}."
        ) from error
    if wish not in _FP32:
        engine.note = f"{wish} was asked for; whether it finds the same cells as fp32 was not measured."
    return engine


def available_engines() -> Mapping[str, str | None]:
    """For each engine None if this machine has it, otherwise why not. Opening it can still fail: a driver, memory."""
    found: dict[str, str | None] = dict.fromkeys(ENGINES)
    offered = gpu_engines_offered()
    for name in ENGINES:
        if name in offered:
            found[name] = offered[name]
    try:
        core = openvino_module().Core()
    except MicrotomeError as error:
        # OpenVINO reads the model's file for Microtome's own kernels, too.
        reading = [name for name in ENGINES if name.startswith("openvino") or name == _OWN]
        found.update(dict.fromkeys(reading, error.detail))
    else:
        if not has_bf16(core):
            found["openvino-cpu-bf16"] = "This processor has no bf16 instructions."
        found[_OWN] = missing()
    return found


def _open(name: str, place: _Place) -> _Opened:
    """Open one engine by name. Raises `EngineUnavailable`."""
    if name == REFERENCE:
        return OnnxRuntimeEngine(place.model, threads=place.threads)
    if name == _OWN:
        return MicrotomeEngine(place.model, place.threads)
    if name.startswith("openvino"):
        precision: Precision = "int8" if name.endswith("int8") else "bf16" if name.endswith("bf16") else "fp32"
        if precision != "int8":
            return OpenVinoEngine(place.model, precision, place.threads)
        in_bytes = calibrated(place.model, place.threads, place.folder)
        # Floats might be added up in another order in a lane, which has fewer threads; whole numbers cannot.
        return OpenVinoEngine(place.model, precision, place.threads, in_bytes, lanes=min(place.threads, place.lanes))
    return GpuEngine(place.model, name, place.folder)


def _automatic(place: _Place) -> Engine:
    here = [name for name, reason in available_engines().items() if reason is None]
    facts = memory.facts(place.model, place.threads, here)
    with memory.alone(place.folder, facts):
        remembered = Choice.from_json(memory.recall(place.folder, facts), here)
        if remembered is not None:
            try:
                return _chosen(_open(remembered.engine, place), remembered)
            except MicrotomeError as error:
                log.warning("the engine that was chosen before cannot be opened, so one is chosen again: %s", error)
        choice, engine = choose(place.model, lambda name: _open(name, place), here, REFERENCE)
        memory.remember(place.folder, facts, choice.to_json())
    log.info("engine chosen", extra={"engine": choice.engine, "f1": choice.f1, "ms": choice.milliseconds})
    return _chosen(engine, choice)


def _chosen(engine: _Opened, choice: Choice) -> Engine:
    engine.note = choice.note
    return engine
