"""The network in OpenVINO, on a CPU, in fp32, bf16 or int8.

Promises: on one machine the same bits for a tile whatever else is in its batch, and in int8 for a part of it whatever
is computed around; in floats that part differs in its last bits in a few shapes of tiles. What only the rest of a tile
needs is not computed where a part of it is wanted. Nothing is sent anywhere: `import openvino` as its maker ships it
reports every import to an analytics service unless the machine's user opted out, and `openvino_module` imports it
without the part that does.
Refuses: bf16 on a processor that has no instructions for it (it would be slower than fp32, and no more exact).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from queue import LifoQueue
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from microtome.segmentation.engine import (
    EngineFailed,
    EngineUnavailable,
    checked,
    checked_part,
    cut_out,
    usable_cores,
)
from microtome.segmentation.engines.emitting import InBytes, different_cuts, emit
from microtome.segmentation.engines.network import UnknownNetwork, read_network
from microtome.segmentation.engines.rewriting import rewritten
from microtome.segmentation.engines.trimming import Trimming, trimming
from microtome.segmentation.grid import Rect
from microtome.segmentation.model import Model

Precision = Literal["fp32", "bf16", "int8"]
# Those of some thirty shapes of patches, for all lanes. A large slide has hundreds, and they seldom come again.
_KEPT_KERNELS = 1000
# Logits of patches take room in such steps: what one leaves behind the next can have, whatever their sizes.
_STEP_BYTES = 16 << 20
# The package that reports to Google Analytics; without it OpenVINO uses its own stand-in, which does nothing.
_REPORTER = "openvino_telemetry"


def openvino_module() -> Any:  # noqa: ANN401 - OpenVINO has no types
    """Import OpenVINO without what reports the import. Raises `EngineUnavailable` where it is not installed."""
    if "openvino" not in sys.modules:
        # None makes the import system say that there is no such package.
        sys.modules.setdefault(_REPORTER, None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise EngineUnavailable(f"OpenVINO is not installed here: {error}") from error
    return openvino


def has_bf16(core: Any) -> bool:  # noqa: ANN401
    """Say whether this processor computes in bf16 itself."""
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenVinoEngine:
    """The model's network, rewritten, in OpenVINO."""

    def __init__(
        self,
        model: Model,
        precision: Precision,
        threads: int = 0,
        in_bytes: InBytes | None = None,
        lanes: int = 1,
    ) -> None:
        """`threads`: cores for all calls, 0 for all that this process may use; `in_bytes`: for int8, see `calibration`;
        `lanes`: how many calls may run at the same time, each on its share of the cores and with memory of its own.

        Raises `EngineUnavailable` if this machine cannot run it.
        """
        ov = openvino_module()
        core = ov.Core()
        if precision == "bf16" and not has_bf16(core):
            raise EngineUnavailable("This processor has no bf16 instructions.")
        if (precision == "int8") != (in_bytes is not None):
            raise ValueError("int8 needs a network in bytes, and nothing else does")
        self._trim: Trimming | None = None
        try:
            of = in_bytes or InBytes(rewritten(read_network(core, model.network)), {}, ())
            self._trim = trimming(of.network)
            trim = None if self._trim.margin is None else self._trim
            graph = emit(ov, of.network, of.ranges, trim=trim, shift=of.shift)
        except UnknownNetwork:
            graph = core.read_model(str(model.network))
        options = {
            # In bytes everything is that can be; the rest, the picture's normalisation and the logits, is too little
            # to gain anything from being less exact.
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": lanes,
            "INFERENCE_NUM_THREADS": threads or usable_cores(),
            # The head runs beside the network on the same cores.
            "ENABLE_CPU_PINNING": False,
            # Kernels that are kept for shapes met before, layer by layer; by default 5,000, and every shape holds 5 MB.
            "CPU_RUNTIME_CACHE_CAPACITY": _KEPT_KERNELS // lanes,
        }
        self._tensor = ov.Tensor
        # What can be trimmed runs in the graph for parts, also where all of a tile is wanted: each of two graphs would
        # keep the memory of the largest tile that it was given, 120 bytes for each of its pixels in int8.
        compiled = core.compile_model(graph, "CPU", options)
        self._requests: LifoQueue[Any] = LifoQueue()
        for _ in range(lanes):
            self._requests.put(compiled.create_infer_request())
        self.lanes = lanes
        self.name = f"openvino-cpu-{precision}"
        self.note: str | None = None
        self.batch_size = 1

    def infer(
        self, pixels: NDArray[np.uint8], low: NDArray[np.float32], scale: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """See `Engine.infer`."""
        feed = checked(pixels, low, scale)
        batch, height, width = pixels.shape[:3]
        # OpenVINO writes straight into it; its own buffer would be overwritten by the next call.
        logits = _room(batch, 5, height, width)
        with _failing(batch):
            for tile in range(batch):
                # More at once take as long each, and in bf16 other kernels run, which round otherwise.
                one = {name: values[tile : tile + 1] for name, values in feed.items()}
                self._run(one, Rect(0, 0, width, height), logits[tile : tile + 1])
        return logits

    def infer_part(
        self, pixels: NDArray[np.uint8], low: NDArray[np.float32], scale: NDArray[np.float32], wanted: Rect
    ) -> NDArray[np.float32]:
        """See `TrimmingEngine.infer_part`."""
        feed, (height, width) = checked_part(pixels, low, scale, wanted), pixels.shape[1:3]
        if self._margin is None or wanted == Rect(0, 0, width, height):
            return cut_out(self.infer(pixels, low, scale), wanted)
        made = wanted.grown(self._margin).intersection(Rect(0, 0, width, height))
        logits = _room(1, 5, made.height, made.width)
        with _failing(1):
            self._run(feed, wanted, logits)
        return cut_out(logits, Rect(wanted.x - made.x, wanted.y - made.y, wanted.width, wanted.height))

    @property
    def _margin(self) -> int | None:
        """How much more than what is wanted the graph for parts makes on each side; None where there is no such."""
        return None if self._trim is None else self._trim.margin

    def _run(self, feed: dict[str, NDArray[Any]], wanted: Rect, logits: NDArray[np.float32]) -> None:
        bounds = {} if self._margin is None else self._bounds(wanted)
        # OpenVINO takes no array that must not be written, though it only reads it. It keeps no hold on any.
        lent = {name: np.require(values, requirements=("C", "W")) for name, values in (feed | bounds).items()}
        request = self._requests.get()
        try:
            for name, values in (lent | {"logits": logits}).items():
                request.set_tensor(name, self._tensor(values, shared_memory=True))
            request.infer()
        finally:
            self._requests.put(request)

    def _bounds(self, wanted: Rect) -> dict[str, NDArray[np.int64]]:
        """Where each of the graph's cuts begins and ends, down and across."""
        assert self._trim is not None, "only what can be trimmed is cut"
        found = {}
        for number, cut in enumerate(different_cuts(self._trim)):
            top, bottom = cut.bounds(wanted.y, wanted.y + wanted.height)
            left, right = cut.bounds(wanted.x, wanted.x + wanted.width)
            found[f"begin{number}"] = np.array([top, left], np.int64)
            found[f"end{number}"] = np.array([bottom, right], np.int64)
        return found


def _room(*shape: int) -> NDArray[np.float32]:
    """Give an array of this shape, not filled; the rest of its last step is not touched."""
    values = math.prod(shape)
    step = _STEP_BYTES // 4
    return np.empty(-(-values // step) * step, np.float32)[:values].reshape(shape)


@contextmanager
def _failing(tiles: int) -> Iterator[None]:
    """Tell what OpenVINO says of `tiles` tiles that failed as `EngineFailed`."""
    try:
        yield
    except Exception as error:  # OpenVINO's own errors share no other base
        raise EngineFailed(f"The network failed on {tiles} tiles: {type(error).__name__}: {error}") from error
