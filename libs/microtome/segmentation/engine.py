"""What an engine is, and the one that is always there.

Promises: uint8 pixels in, float32 logits out, and on one engine the same bits for a tile whatever else is in its
batch. An engine says what it runs on and what its user must know about the choice. The others, and the choice among
them, are in `microtome.segmentation.engines`.
Refuses: pixels whose shape the network would change by rounding.
"""

from __future__ import annotations

import os
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from microtome.errors import ConfigurationError, InvalidRequest, MicrotomeError
from microtome.segmentation.grid import STRIDE, Rect
from microtome.segmentation.model import Model

# Measured on two cores: a batch of 1, 2 or 4 tiles takes the same time a tile, and 0.75 GB of memory for each tile.
CPU_BATCH = 1


class EngineFailed(MicrotomeError):
    """The network could not be run on these pixels now: memory or the device gave out."""

    code = "engine-failed"
    transient = True


class EngineUnavailable(ConfigurationError):
    """The engine that was asked for cannot be run on this machine."""

    code = "engine-unavailable"


class Engine(Protocol):
    """What turns pixels into logits. `infer` may be called from one thread at a time, but see `LanedEngine`."""

    @property
    def name(self) -> str:
        """What runs, on what, in which precision: `onnxruntime-cpu-fp32`."""

    @property
    def note(self) -> str | None:
        """What the user must know about the choice of this engine."""

    @property
    def batch_size(self) -> int:
        """Tiles a call is best given."""

    def infer(
        self, pixels: NDArray[np.uint8], low: NDArray[np.float32], scale: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Logits float32 [b, 5, h, w] of `pixels` uint8 [b, h, w, 3], each item with its own slide's `low` and
        `scale` float32 [b, 3]. Raises `InvalidRequest` for other shapes, `EngineFailed` when the run itself fails.
        """


@runtime_checkable
class TrimmingEngine(Engine, Protocol):
    """An engine that computes less where only a part of a tile is wanted."""

    def infer_part(
        self, pixels: NDArray[np.uint8], low: NDArray[np.float32], scale: NDArray[np.float32], wanted: Rect
    ) -> NDArray[np.float32]:
        """Logits float32 [1, 5, wanted.height, wanted.width] of the part `wanted` of one tile, in the tile's pixels,
        multiples of 16: those that `infer` gives there, as exactly as the engine keeps to them in tiles of other
        shapes. Raises what `infer` raises.
        """


@runtime_checkable
class LanedEngine(TrimmingEngine, Protocol):
    """An engine of which several calls run at the same time, each on its share of the cores.

    Where tiles are many that is faster than one call on all cores: no core waits for another after each layer, and what
    is done once for a new shape of patch, on one core, is done beside other work.
    """

    @property
    def lanes(self) -> int:
        """How many threads may be in `infer` and `infer_part` at a time; another one waits."""


def lanes_of(engine: Engine) -> int:
    """Say how many calls of an engine may run at the same time."""
    return engine.lanes if isinstance(engine, LanedEngine) else 1


class OnnxRuntimeEngine:
    """The model's network in ONNX Runtime on a CPU, fp32: what every other engine is measured against."""

    def __init__(self, model: Model, device: Literal["cpu"] = "cpu", threads: int = 0) -> None:
        """`threads`: cores for one call, 0 for all that this process may use."""
        import onnxruntime

        if device != "cpu" or threads < 0:
            raise ConfigurationError(f"There is no engine for device '{device}' with {threads} threads.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or usable_cores()
        options.inter_op_num_threads = 1
        # Waiting threads would take the cores that the head needs beside the network.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._session: Any = onnxruntime.InferenceSession(
            str(model.network), options, providers=["CPUExecutionProvider"]
        )
        self.name = "onnxruntime-cpu-fp32"
        self.note: str | None = None
        self.batch_size = CPU_BATCH

    def infer(
        self, pixels: NDArray[np.uint8], low: NDArray[np.float32], scale: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """See `Engine.infer`."""
        feed = checked(pixels, low, scale)
        try:
            logits: NDArray[np.float32] = self._session.run(["logits"], feed)[0]
        except Exception as error:  # ONNX Runtime's own errors share no other base
            raise EngineFailed(f"The network failed on {len(pixels)} tiles: {type(error).__name__}: {error}") from error
        return logits


def infer_part(
    engine: Engine, pixels: NDArray[np.uint8], low: NDArray[np.float32], scale: NDArray[np.float32], wanted: Rect
) -> NDArray[np.float32]:
    """Give the logits of a part of one tile, as `TrimmingEngine.infer_part`, of any engine."""
    if isinstance(engine, TrimmingEngine):
        return engine.infer_part(pixels, low, scale, wanted)
    checked_part(pixels, low, scale, wanted)
    return cut_out(engine.infer(pixels, low, scale), wanted)


def cut_out(logits: NDArray[np.float32], part: Rect) -> NDArray[np.float32]:
    """Return a part of logits [b, 5, h, w], not copied."""
    return logits[:, :, part.y : part.y + part.height, part.x : part.x + part.width]


def checked_part(
    pixels: NDArray[np.uint8], low: NDArray[np.float32], scale: NDArray[np.float32], wanted: Rect
) -> dict[str, NDArray[Any]]:
    """Do what `checked` does for one tile. Raises `InvalidRequest` for a part that is not of it, too."""
    feed = checked(pixels, low, scale)
    height, width = pixels.shape[1:3]
    inside = wanted.x >= 0 and wanted.y >= 0 and wanted.x + wanted.width <= width and wanted.y + wanted.height <= height
    sides = (wanted.x, wanted.y, wanted.width, wanted.height)
    if len(pixels) != 1 or not inside or wanted.empty or any(side % STRIDE for side in sides):
        raise InvalidRequest(f"{wanted} is not a part of {len(pixels)} tiles of {width} × {height} pixels.")
    return feed


def checked(pixels: NDArray[np.uint8], low: NDArray[np.float32], scale: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """Give what a network is fed, by name. Raises `InvalidRequest` for what is not `Engine.infer`'s to take."""
    count = pixels.shape[0] if pixels.ndim else 0
    if pixels.ndim != 4 or pixels.shape[3] != 3 or pixels.dtype != np.uint8 or count == 0:
        raise InvalidRequest(f"Pixels must be uint8 [b, h, w, 3], not {pixels.dtype} {pixels.shape}.")
    if pixels.shape[1] % STRIDE or pixels.shape[2] % STRIDE:
        raise InvalidRequest(f"Height and width must be multiples of {STRIDE}, not {pixels.shape[1:3]}.")
    if low.shape != (count, 3) or scale.shape != (count, 3):
        raise InvalidRequest(f"low and scale must be [{count}, 3], not {low.shape} and {scale.shape}.")
    return {
        "pixels": np.ascontiguousarray(pixels),
        "low": np.ascontiguousarray(low, np.float32),
        "scale": np.ascontiguousarray(scale, np.float32),
    }


def usable_cores() -> int:
    """Count the cores that this process may use; all of the machine's where the system does not say (macOS)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
