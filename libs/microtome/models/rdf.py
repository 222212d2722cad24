"""What a bioimage.io description (`rdf.yaml`) says of its model.

Promises: pixel size, licence, version, name and percentiles, each only if it is there and makes sense.
Refuses: a file that is no YAML. Needs `pyyaml`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from microtome.models.refusals import ImportNeedsMore, ModelRefused

_MAX_BYTES = 1 << 20


def read_rdf(path: Path) -> dict[str, Any]:
    """Give some of: name, version, licence (str), mpp (float), percentiles (tuple of two floats)."""
    try:
        import yaml
    except ImportError as error:
        raise ImportNeedsMore("Reading rdf.yaml needs PyYAML: `make setup-models`, or pip install pyyaml.") from error
    if path.stat().st_size > _MAX_BYTES:
        raise ModelRefused("The model's rdf.yaml is too large to be one.")
    try:
        said = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ModelRefused(f"The model's rdf.yaml is damaged: {error}") from error
    if not isinstance(said, Mapping):
        raise ModelRefused("The model's rdf.yaml does not describe a model.")
    found: dict[str, Any] = {
        ours: str(said[theirs])
        for ours, theirs in (("name", "name"), ("version", "version"), ("licence", "license"))
        if isinstance(said.get(theirs), str | int | float)
    }
    for axis in _mappings(said, "inputs", "axes"):
        scale, unit = axis.get("scale"), axis.get("unit")
        # Without a unit, 1.0 is what the format says where nothing was said.
        in_micrometres = unit in {"micrometer", "micrometre", "µm"} or (unit is None and scale != 1)
        if axis.get("id") == "x" and isinstance(scale, int | float) and scale > 0 and in_micrometres:
            found["mpp"] = float(scale)
    for step in _mappings(said, "inputs", "preprocessing"):
        limits = step.get("kwargs")
        if isinstance(limits, Mapping) and {"min_percentile", "max_percentile"} <= limits.keys():
            found["percentiles"] = (float(limits["min_percentile"]), float(limits["max_percentile"]))
    return found


def _mappings(said: Mapping[str, Any], *path: str) -> Iterator[Mapping[str, Any]]:
    """Give all mappings in the lists along a path."""
    value = said.get(path[0])
    for entry in value if isinstance(value, list) else []:
        if not isinstance(entry, Mapping):
            continue
        if len(path) == 1:
            yield entry
        else:
            yield from _mappings(entry, *path[1:])
