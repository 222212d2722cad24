"""The network on an NVIDIA GPU: ONNX Runtime with CUDA or TensorRT.

Promises: pixels are copied to the device once and logits back once, into buffers that stay bound; every call has one of
a few shapes, since a batch is filled up to 1, 2, 4 or 8 tiles (what is filled up is thrown away, and no tile feels it);
small calls, where starting the kernels would take longer than computing, are replayed as CUDA graphs, and where that
fails, which is said, without.
Refuses: to run on the CPU instead (`EngineUnavailable`). Not measured on a GPU yet: the way through bound buffers and
filled batches is tested on the CPU, the half-precision network too; the rest follows ONNX Runtime's documentation.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microtome.segmentation.engine import EngineFailed, EngineUnavailable, checked
from microtome.segmentation.engines.half import halved
from microtome.segmentation.model import Model

log = logging.getLogger(__name__)

_PROVIDERS = {
    "onnxruntime-cuda-fp32": "CUDAExecutionProvider",
    "onnxruntime-cuda-fp16": "CUDAExecutionProvider",
    "tensorrt-fp16": "TensorrtExecutionProvider",
}
GPU_BATCH = 4
_BUCKETS = (1, 2, 4, 8)
# Shapes whose buffers stay on the device: a job's tiles have one shape, so this is about how many jobs mix.
_SHAPES_KEPT = 6
# Below so many pixels a call, about a hundred kernels take longer to start than to run.
_GRAPH_PIXELS = 512 * 512


def gpu_engines_offered() -> Mapping[str, str | None]:
    """For each engine on a GPU None if ONNX Runtime was built for it, otherwise why it cannot be had."""
    import onnxruntime

    offered = onnxruntime.get_available_providers()
    return {
        name: None if provider in offered else f"ONNX Runtime was not built with {provider} here."
        for name, provider in _PROVIDERS.items()
    }


class GpuEngine:
    """The model's network on a GPU."""

    def __init__(self, model: Model, name: str, folder: Path | None = None) -> None:
        """`name`: one of the engines on a GPU; `folder`: where TensorRT keeps what it compiled, which takes minutes.

        Raises `EngineUnavailable` when ONNX Runtime cannot use the device.
        """
        import onnxruntime

        provider = _PROVIDERS[name]
        if (reason := gpu_engines_offered()[name]) is not None:
            raise EngineUnavailable(reason)
        source = halved(model.network) if name == "onnxruntime-cuda-fp16" else str(model.network)

        def opened(graphs: bool) -> BoundRunner:
            providers: list[Any] = [("CUDAExecutionProvider", _cuda_options(name, graphs))]
            if provider == "TensorrtExecutionProvider":
                providers.insert(0, (provider, _tensorrt_options(folder)))
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            session = onnxruntime.InferenceSession(source, options, providers=providers)
            if session.get_providers()[0] != provider:
                raise EngineUnavailable(
                    f"ONNX Runtime has {provider} but cannot use it here: no device, driver or library."
                )
            return BoundRunner(session, "cuda", graphs=graphs)

        try:
            self._runner = GraphsIfPossible(opened, graphs=provider == "CUDAExecutionProvider")
        except EngineUnavailable:
            raise
        except Exception as error:  # ONNX Runtime's own errors share no other base
            raise EngineUnavailable(f"ONNX Runtime cannot use the GPU: {type(error).__name__}: {error}") from error
        self.name = name
        self._said: str | None = None
        self.batch_size = GPU_BATCH

    @property
    def note(self) -> str | None:
        """What the job's user must know: what was said at the opening, and whether graphs had to be left out."""
        return " ".join(part for part in (self._said, self._runner.note) if part) or None

    @note.setter
    def note(self, said: str | None) -> None:
        self._said = said

    def infer(
        self, pixels: NDArray[np.uint8], low: NDArray[np.float32], scale: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """See `Engine.infer`."""
        feed = checked(pixels, low, scale)
        try:
            return self._runner.run(feed)
        except Exception as error:  # ONNX Runtime's own errors share no other base
            raise EngineFailed(f"The network failed on {len(pixels)} tiles: {type(error).__name__}: {error}") from error


class GraphsIfPossible:
    """A runner that replays small calls as CUDA graphs, until opening it or such a call fails; then one without."""

    def __init__(self, opening: Callable[[bool], BoundRunner], *, graphs: bool) -> None:
        """`opening(graphs)` opens a session and what runs it. Raises what that raises without graphs."""
        self._opening = opening
        self.note: str | None = None
        try:
            self._runner = opening(graphs)
        except EngineUnavailable:
            raise
        except Exception as error:  # ONNX Runtime's own errors share no other base
            if not graphs:
                raise
            self._runner = self._without(error)

    def run(self, feed: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """See `BoundRunner.run`."""
        try:
            return self._runner.run(feed)
        except Exception as error:
            if not self._runner.replays(feed):
                raise
            self._runner = self._without(error)
        return self._runner.run(feed)

    def _without(self, error: Exception) -> BoundRunner:
        log.warning("CUDA graphs fail here and are left out: %s: %s", type(error).__name__, error)
        runner = self._opening(False)
        self.note = f"Small calls of the network are not replayed as CUDA graphs: {type(error).__name__} here."
        return runner


@dataclass(frozen=True, eq=False)
class _Bound:
    """Buffers of one shape, bound to the session."""

    binding: Any
    inputs: Mapping[str, Any]
    output: Any
    options: Any


class BoundRunner:
    """Runs a session through buffers on its device that stay where they are."""

    def __init__(self, session: Any, device: str, *, graphs: bool) -> None:  # noqa: ANN401
        """`device`: ONNX Runtime's name of it; `graphs`: replay small calls as CUDA graphs."""
        self._session = session
        self._device = device
        self._graphs = graphs
        self._bound: OrderedDict[tuple[int, int, int], _Bound] = OrderedDict()
        self._made = 0

    def run(self, feed: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Logits float32 [b, 5, h, w] of what `checked` gave."""
        count, height, width = feed["pixels"].shape[:3]
        largest = _BUCKETS[-1]
        if count > largest:
            parts = [
                self.run({name: values[at : at + largest] for name, values in feed.items()})
                for at in range(0, count, largest)
            ]
            return np.concatenate(parts)
        bucket = _bucket(count)
        bound = self._bound_to((bucket, height, width))
        for name, values in feed.items():
            bound.inputs[name].update_inplace(_filled(values, bucket))
        self._session.run_with_iobinding(bound.binding, bound.options)
        logits: NDArray[np.float32] = bound.output.numpy()[:count]
        # On the host the buffer itself would be given out, and the next call would write into it.
        return logits if self._device == "cuda" else logits.copy()

    def replays(self, feed: Mapping[str, NDArray[Any]]) -> bool:
        """Say whether this call, or the last part of it, is replayed as a graph."""
        count, height, width = feed["pixels"].shape[:3]
        return self._graphs and _small(_bucket(count % _BUCKETS[-1] or _BUCKETS[-1]), height, width)

    def _bound_to(self, shape: tuple[int, int, int]) -> _Bound:
        if shape not in self._bound:
            if len(self._bound) >= _SHAPES_KEPT:
                self._bound.popitem(last=False)
            self._bound[shape] = self._bind(shape)
        self._bound.move_to_end(shape)
        return self._bound[shape]

    def _bind(self, shape: tuple[int, int, int]) -> _Bound:
        import onnxruntime

        batch, height, width = shape

        def buffer(dimensions: tuple[int, ...], kind: type) -> Any:  # noqa: ANN401
            return onnxruntime.OrtValue.ortvalue_from_shape_and_type(list(dimensions), kind, self._device, 0)

        inputs = {
            "pixels": buffer((batch, height, width, 3), np.uint8),
            "low": buffer((batch, 3), np.float32),
            "scale": buffer((batch, 3), np.float32),
        }
        output = buffer((batch, 5, height, width), np.float32)
        binding = self._session.io_binding()
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        binding.bind_ortvalue_output("logits", output)
        options = onnxruntime.RunOptions()
        if self._graphs:
            # A number of its own for every set of buffers, since a graph has their addresses in it; -1: no graph.
            self._made += 1
            small = _small(batch, height, width)
            options.add_run_config_entry("gpu_graph_id", str(self._made if small else -1))
        return _Bound(binding, inputs, output, options)


def _bucket(count: int) -> int:
    return next(size for size in _BUCKETS if size >= count)


def _small(batch: int, height: int, width: int) -> bool:
    return batch * height * width <= _GRAPH_PIXELS


def _filled(values: NDArray[Any], rows: int) -> NDArray[Any]:
    """Repeat the last row until there are `rows`."""
    missing = rows - len(values)
    return values if missing == 0 else np.concatenate([values, np.repeat(values[-1:], missing, axis=0)])


def _cuda_options(name: str, graphs: bool) -> dict[str, str]:
    return {
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
        # Tensor cores want channels last; TF32 has bf16's few bits and would not be fp32.
        "prefer_nhwc": "1" if name.endswith("fp16") else "0",
        "use_tf32": "0",
        "enable_cuda_graph": "1" if graphs else "0",
    }


def _tensorrt_options(folder: Path | None) -> dict[str, str]:
    options = {
        "trt_fp16_enable": "1",
        # One compiled network for all shapes that tiles can have, instead of one each.
        "trt_profile_min_shapes": "pixels:1x256x256x3,low:1x3,scale:1x3",
        "trt_profile_opt_shapes": f"pixels:{GPU_BATCH}x1024x1024x3,low:{GPU_BATCH}x3,scale:{GPU_BATCH}x3",
        "trt_profile_max_shapes": "pixels:8x2048x2048x3,low:8x3,scale:8x3",
    }
    if folder is not None:
        options |= {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(folder / "tensorrt"),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(folder / "tensorrt"),
        }
    return options
