"""Our head against the package's, live: `python -m tests.parity .venv-parity/bin/python [FAMILY]`.

Runs the recorded cases and larger ones of this machine's own through the deployed head of instanseg-torch, compares
every pixel, and sees to it that the recorded labels are still what the package says. Prints a table and, as the last
line, one JSON object; ends with 1 on any difference.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from dataclasses import replace

import numpy as np

from microtome.segmentation.model import load_model
from tests.parity.cases import Suite
from tests.parity.ours import instances
from tests.parity.real import live
from tests.parity.record import recorded, run_package


def main() -> int:
    began = time.perf_counter()
    model = load_model("embedded")
    old = recorded()
    # The recorded classifier called "embedded" is of the model of that day.
    new = [replace(case, classifier="now") if case.network is None else case for case in live(model)]
    classifiers = {**old.classifiers, "now": model.pixel_classifier.flat}
    wanted = [case for case in (*old.cases, *new) if len(sys.argv) < 3 or sys.argv[2] in case.family]
    suite = run_package(sys.argv[1], Suite(wanted, classifiers))
    said = {case.name: case.labels for case in old.cases}

    rows: dict[str, list[int]] = defaultdict(lambda: [0] * 5)
    for case in suite.cases:
        assert case.labels is not None
        found = instances(case, suite, model)
        wrong = int(np.count_nonzero(found.labels != case.labels))
        stale = case.name in said and not np.array_equal(said[case.name], case.labels)
        for column, value in enumerate((1, len(found.label), case.labels.size, wrong, stale)):
            rows[case.family][column] += value
        if wrong or stale:
            print(f"{case.name}: {wrong} pixels differ{'; the recorded labels are not these' if stale else ''}")
    print(f"{'':18} {'tiles':>6} {'nuclei':>7} {'pixels':>9} {'differ':>7} {'recorded wrong':>15}")
    for family, row in rows.items():
        print(f"{family:18} {row[0]:6} {row[1]:7} {row[2]:9} {row[3]:7} {row[4]:15}")
    tiles, nuclei, pixels, differ, stale = (sum(column) for column in zip(*rows.values(), strict=True))
    result = {"tiles": tiles, "nuclei": nuclei, "pixels": pixels, "pixels_differ": differ, "recorded_wrong": stale}
    print(json.dumps({**result, "seconds": round(time.perf_counter() - began, 1)}))
    return int(differ > 0 or stale > 0)


if __name__ == "__main__":
    sys.exit(main())
