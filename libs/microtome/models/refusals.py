"""Why a model cannot be imported.

Promises: every file that is no model, is damaged, or is one that this version cannot run exactly is refused with one of
these, and the message says which of them it is and what can be done.
"""

from __future__ import annotations

from microtome.errors import InvalidRequest


class ModelRefused(InvalidRequest):
    """The file holds no model that Microtome can run."""

    code = "model-refused"


class ImportNeedsMore(InvalidRequest):
    """Importing needs something that is not there: PyTorch, a network, or a number that no file holds."""

    code = "model-import-needs-more"
