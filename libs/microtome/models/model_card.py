"""The first page of an imported model's card: what the import knows, and what only its user can add.

Promises: nothing that was not read or measured. Refuses: scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from microtome.segmentation.model import Model


def model_card(model: Model, about: Mapping[str, Any]) -> str:
    """The text of MODEL_CARD.md."""
    source, parity, radius = about["source"], about["parity"], about["receptive_radius"]
    origin = source.get("url") or source.get("file")
    licence = about["licence"] or "unknown: ask whoever gave you the model before you use or pass on its results"
    notes = "".join(f"- {note}\n" for note in about["notes"])
    return f"""# Model: {model.name}

Imported from somewhere else; Microtome has not tested how well it finds {about["objects"]}.
**Not validated for any use. It must not inform any decision about a patient.**

| | |
|---|---|
| Finds | {about["objects"]} |
| Pixel size | {model.mpp} µm |
| Channels | {about["channels"]} |
| Licence | {licence} |
| Version | {about["version"] or "unknown"} |
| Source | {source["kind"]} {origin}, sha256 `{source["sha256"]}` |
| Digest | `{model.digest}` |
| Halo | at least {model.halo_min} pixels (a pixel is felt {radius["felt"]} pixels away, at most {radius["bound"]}) |
| Parity | logits within {parity["logits"]:.2g} of {parity["compared_with"]} |

{notes}
The licence of a model does not settle the licences of the images that it was trained on. Write here what you know of
its training data, for which stains, scanners and tissues you have checked it, and how.
"""
