"""Records what the package's head makes of the cases: `python -m tests.parity.record .venv-parity/bin/python`.

Writes tests/data/head-parity.npz. The pixel classifier of the made tiles stays the one that was recorded first, so that
a new embedded model does not change them.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from microtome.segmentation.model import Model, load_model
from tests.parity.cases import Suite, load, save
from tests.parity.real import ROOT, to_record
from tests.parity.tiles import CLASSIFIERS, recipes

RECORDED = ROOT / "tests" / "data" / "head-parity.npz"
FIRST = "first"


def recorded() -> Suite:
    """The committed cases, whole."""
    return load(RECORDED, {case.name: logits for case in recipes() if (logits := case.logits) is not None})


def run_package(python: str, suite: Suite) -> Suite:
    """The suite with the package's labels, by the interpreter that has the package."""
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "given.npz", Path(folder) / "made.npz"
        save(suite, given)
        command = [python, "-m", "tests.parity.package", str(given), str(made)]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        return load(made)


def _first_classifier(model: Model) -> np.ndarray:
    if RECORDED.is_file():
        with np.load(RECORDED) as file:
            if f"classifier/{FIRST}" in file.files:
                return file[f"classifier/{FIRST}"]
    return model.pixel_classifier.flat


def main() -> None:
    model = load_model("embedded")
    classifiers = {**CLASSIFIERS, FIRST: _first_classifier(model), "embedded": model.pixel_classifier.flat}
    made = list(recipes())
    done = run_package(sys.argv[1], Suite([*made, *to_record(model)], classifiers))
    save(done, RECORDED, [case.name for case in made])
    print(f"{len(done.cases)} tiles, {RECORDED.stat().st_size / 1e6:.2f} MB: {RECORDED}")


if __name__ == "__main__":
    main()
