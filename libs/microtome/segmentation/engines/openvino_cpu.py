"""The network in OpenVINO, on a CPU, in fp32, bf16 or int8.

Promises: on one machine the same bits for a tile whatever else is in its batch. Nothing is sent anywhere: `import
openvino` as its maker ships it reports every import to an analytics service unless the machine's user opted out, and
`openvino_module` imports it without the part that does.
Refuses: bf16 on a processor that has no instructions for it (it would be slower than fp32, and no more exact).
"""

from __future__ import annotations

import sys
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from microtome.segmentation.engine import EngineFailed, EngineUnavailable, checked, usable_cores
from microtome.segmentation.engines.emitting import Ranges, emit
from microtome.segmentation.engines.network import UnknownNetwork, read_network
from microtome.segmentation.engines.rewriting import rewritten
from microtome.segmentation.model import Model

Precision = Literal["fp32", "bf16", "int8"]
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

    def __init__(self, model: Model, precision: Precision, threads: int = 0, ranges: Ranges | None = None) -> None:
        """`threads`: cores for one call, 0 for all that this process may use; `ranges`: for int8, see `calibration`.

        Raises `EngineUnavailable` if this machine cannot run it, or the network cannot be quantised.
        """
        ov = openvino_module()
        core = ov.Core()
        if precision == "bf16" and not has_bf16(core):
            raise EngineUnavailable("This processor has no bf16 instructions.")
        if (precision == "int8") != (ranges is not None):
            raise ValueError("int8 needs ranges, and nothing else does")
        try:
            network = rewritten(read_network(core, model.network))
            graph = emit(ov, network, ranges)
        except UnknownNetwork as error:
            if precision == "int8":
                raise EngineUnavailable(f"Model '{model.name}' cannot be quantised: {error}") from error
            graph = core.read_model(str(model.network))
        options = {
            # In bytes everything is that can be; the rest, the picture's normalisation and the logits, is too little
            # to gain anything from being less exact.
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads or usable_cores(),
            # The head runs beside the network on the same cores.
            "ENABLE_CPU_PINNING": False,
        }
        self._tensor = ov.Tensor
        self._request = core.compile_model(graph, "CPU", options).create_infer_request()
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
        logits = np.empty((batch, 5, height, width), np.float32)
        try:
            for tile in range(batch):
                self._run({name: values[tile : tile + 1] for name, values in feed.items()}, logits[tile : tile + 1])
        except Exception as error:  # OpenVINO's own errors share no other base
            raise EngineFailed(f"The network failed on {batch} tiles: {type(error).__name__}: {error}") from error
        return logits

    def _run(self, feed: dict[str, NDArray[Any]], logits: NDArray[np.float32]) -> None:
        """Run one tile: more at once take as long each, and in bf16 other kernels run, which round otherwise."""
        # OpenVINO takes no array that must not be written, though it only reads it. It keeps no hold on any.
        lent = {name: np.require(values, requirements=("C", "W")) for name, values in feed.items()} | {"logits": logits}
        for name, values in lent.items():
            self._request.set_tensor(name, self._tensor(values, shared_memory=True))
        self._request.infer()
