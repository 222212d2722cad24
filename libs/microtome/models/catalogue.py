"""`microtome model list`: which models there are.

Promises: every folder of a shipped or imported model is listed, also one that cannot be loaded, with the reason.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from microtome.errors import MicrotomeError
from microtome.segmentation.model import Model, installed_models, load_model, shipped_models


@dataclass(frozen=True, eq=False)
class Entry:
    """A model in its folder. `model` is None where `problem` says why it cannot be loaded."""

    name: str
    origin: Literal["shipped", "imported"]
    folder: Path
    model: Model | None
    about: dict[str, Any]
    problem: str | None

    def as_json(self) -> dict[str, Any]:
        """Give what `--json` prints."""
        facts = read_facts(self.folder)
        return {
            "name": self.name,
            "origin": self.origin,
            "folder": str(self.folder),
            "problem": self.problem,
            "digest": self.model.digest if self.model else None,
            "mpp": self.model.mpp if self.model else None,
            "halo_min": self.model.halo_min if self.model else None,
            "objects": self.about.get("objects", "nuclei"),
            "channels": self.about.get("channels", "red, green, blue"),
            "layers": facts.get("architecture", {}).get("layers"),
            "parameters": facts.get("architecture", {}).get("parameters"),
            "bytes": sum(path.stat().st_size for path in self.folder.glob("model.*")),
            "licence": self.about.get("licence"),
        }


def entries() -> list[Entry]:
    """All models: shipped ones first, then imported ones, by name."""
    found = [_entry(name, "shipped", folder) for name, folder in shipped_models().items()]
    return found + [_entry(name, "imported", folder) for name, folder in installed_models().items()]


def read_about(folder: Path) -> dict[str, Any]:
    """What `about.json` says; nothing if it is not there or says nothing that can be read."""
    return _object(folder / "about.json")


def read_facts(folder: Path) -> dict[str, Any]:
    """What `model.json` says; nothing if it cannot be read."""
    return _object(folder / "model.json")


def _entry(name: str, origin: Literal["shipped", "imported"], folder: Path) -> Entry:
    try:
        model, problem = load_model(folder), None
    except MicrotomeError as error:
        model, problem = None, error.detail
    return Entry(name, origin, folder, model, read_about(folder), problem)


def _object(path: Path) -> dict[str, Any]:
    try:
        said = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}
