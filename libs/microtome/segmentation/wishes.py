"""The names of the engines: what an operator may ask for and what a job records.

Promises: importing this costs nothing. Refuses: to know which of them a machine has; see
`microtome.segmentation.engines`.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

# Of each: who runs the network, on what, in which precision.
EngineName = Literal[
    "tensorrt-fp16",
    "onnxruntime-cuda-fp16",
    "onnxruntime-cuda-fp32",
    "openvino-cpu-int8",
    "microtome-cpu-fp32",
    "openvino-cpu-bf16",
    "openvino-cpu-fp32",
    "onnxruntime-cpu-fp32",
]
# "auto": the fastest that finds the same cells as fp32 on this machine.
EngineWish = Literal["auto", EngineName]
AUTO: Final = "auto"
# From the one that is expected to be the fastest to the one that is always there.
ENGINES: tuple[EngineName, ...] = get_args(EngineName)
