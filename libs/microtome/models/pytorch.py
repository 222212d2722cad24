"""PyTorch, where it is installed.

Promises: who needs it and has it not is told how to get it. Refuses: to be needed for running a model.
"""

from __future__ import annotations

from typing import Any

from microtome.models.refusals import ImportNeedsMore

HOW = (
    "`make setup-models` in a checkout, else `pip install torch==2.13.0 onnx safetensors pyyaml "
    "--extra-index-url https://download.pytorch.org/whl/cpu`"
)


def torch_module() -> Any:  # noqa: ANN401 - a module
    """Return the module `torch`. Raises `ImportNeedsMore`."""
    try:
        import torch
    except ImportError as error:
        raise ImportNeedsMore(
            f"Importing a model needs PyTorch, which running one does not. Install it once: {HOW}"
        ) from error
    return torch
