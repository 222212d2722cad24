"""Checkpoints of the package's training: `model_weights.pth` with `experiment_log.csv` beside it.

Promises: a pickle is read for tensors and plain values only; one that holds anything else is not read at all.
Refuses: checkpoints without a log (nothing says how large their pixels are) and features that the exported head of the
package does not compute either. Needs `torch`.
"""

from __future__ import annotations

import csv
import math
import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from microtome.models.description import Facts
from microtome.models.pytorch import torch_module
from microtome.models.refusals import ModelRefused

_PLAIN_FEATURES = {"0", "7"}
_OBJECTS = {"N": ("nuclei",), "C": ("cells",), "NC": ("nuclei", "cells")}


def read_checkpoint(path: Path, log: Path, name: str) -> tuple[dict[str, NDArray[np.generic]], Facts, tuple[str, ...]]:
    """Give tensors, facts and notes. Raises `ModelRefused`, and `ImportNeedsMore` without torch."""
    torch = torch_module()
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelRefused(
            f"'{path.name}' is no checkpoint of tensors: it is damaged, or holds objects that could run code when "
            "read, which Microtome does not do."
        ) from error
    except (RuntimeError, ValueError, EOFError, OSError, KeyError, AttributeError, TypeError, IndexError) as error:
        raise ModelRefused(
            f"'{path.name}' is no zip, no TorchScript file and no checkpoint that can be read: it is something "
            "else, or damaged; fetch it again."
        ) from error
    state = content.get("model_state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not state or not all(hasattr(value, "detach") for value in state.values()):
        raise ModelRefused(f"'{path.name}' holds no state dict.")
    tensors = {str(key): value.detach().float().numpy() for key, value in state.items()}
    if not log.is_file():
        raise ModelRefused(f"Beside '{path.name}' there must be the experiment_log.csv of its training.")
    facts = _facts(_read_log(log), name)
    return tensors, facts, ("A checkpoint has no thresholds; the package's defaults were taken.",)


def _read_log(path: Path) -> dict[str, str]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return {row[0]: row[1] for row in csv.reader(file) if len(row) >= 2}
    except (UnicodeDecodeError, csv.Error) as error:
        raise ModelRefused(f"'{path.name}' is damaged: {error}") from error


def _facts(said: Mapping[str, str], name: str) -> Facts:
    features = said.get("feature_engineering", "0") or "0"
    if features not in _PLAIN_FEATURES:
        raise ModelRefused(f"The pixel classifier was trained on features '{features}'; only '0' can be deployed.")
    if (adaptor := said.get("adaptor_net_str", "1") or "1") != "1":
        raise ModelRefused(f"The adaptor network '{adaptor}' is not known.")
    try:
        mpp = float(said.get("requested_pixel_size") or said.get("pixel_size") or "nan")
    except ValueError:
        mpp = math.nan
    return Facts(
        name=name,
        mpp=mpp if mpp > 0 else None,
        objects=_OBJECTS.get(said.get("target_segmentation", "N"), ()),
    )
