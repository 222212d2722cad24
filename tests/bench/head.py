"""What the head costs, from logits to instances: per megapixel, by number of nuclei, on one thread and on two at once.

`make bench-head`; ARGS="--repeats 9". The last line is one JSON object; the exit status is 1 where a megapixel with 800
nuclei takes longer than the goal, or a nucleus among 16,000 more than twice what it takes among 4,000.
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
from collections.abc import Callable

import numpy as np

from microtome.segmentation.head import find_instances
from microtome.segmentation.model import Model, load_model
from tests.bench.machine import facts
from tests.parity.tiles import nuclei

EDGE = 1024
COUNTS = (0, 300, 800, 4_000, 16_000)
GOAL_MS = 20.0


def tile(count: int) -> np.ndarray:
    """Logits float32 [5, EDGE, EDGE] with about `count` nuclei in places off a lattice."""
    rng = np.random.default_rng(count)
    across = max(1, round(count**0.5))
    spacing = EDGE / across
    at = (np.arange(across) + 0.5) * spacing
    shift = rng.integers(-int(spacing / 8), int(spacing / 8) + 1, (2, across, across)) if count else np.zeros((2, 1, 1))
    places = [(int(y + shift[0, i, j]), int(x + shift[1, i, j])) for i, y in enumerate(at) for j, x in enumerate(at)]
    radius = min(8, int(spacing / 2.4))
    return nuclei(count, (EDGE, EDGE), places if count else [], (max(2, radius - 2), max(3, radius)), 0.1)


def timed(work: Callable[[], object], repeats: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Smallest milliseconds of several runs: what others on the machine take is not the head's."""
    times = []
    for _ in range(repeats):
        began = clock()
        work()
        times.append(clock() - began)
    return 1e3 * min(times)


def at_once(work: Callable[[], object], threads: int) -> None:
    """Run `work` in so many threads together."""
    running = [threading.Thread(target=work) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


def measure(model: Model, repeats: int) -> dict[str, object]:
    """Measure all counts."""
    rows = []
    print(f"{'asked':>7} {'nuclei':>7} {'ms/MPix':>8} {'wall':>8} {'µs/nucleus':>11} {'two, wall':>10} {'speed-up':>9}")
    pixels = EDGE**2 / 1e6
    empty = 0.0
    for count in COUNTS:
        logits = tile(count)
        found = len(find_instances(logits, model).label)
        calls = max(1, 4_000 // max(count, 400))

        def several(logits: np.ndarray = logits, calls: int = calls) -> None:
            for _ in range(calls):
                find_instances(logits, model)

        # Processor time of the one thread: on an idle machine the same as wall time, on a busy one still the head's.
        cost = timed(several, repeats, time.thread_time) / calls / pixels
        one = timed(several, repeats) / calls / pixels
        two = timed(lambda several=several: at_once(several, 2), repeats) / calls / pixels  # type: ignore[misc]
        empty = cost if count == 0 else empty
        each = 1e3 * (cost - empty) * pixels / found if found else None
        rows.append({
            "asked": count, "nuclei": found, "ms_per_mpx": round(cost, 2), "wall_ms_per_mpx": round(one, 2),
            "us_per_nucleus": None if each is None else round(each, 1), "two_threads_speedup": round(2 * one / two, 2),
        })  # fmt: skip
        print(f"{count:7} {found:7} {cost:8.2f} {one:8.2f} {each or 0:11.1f} {two:10.2f} {2 * one / two:9.2f}")
    by_count = {row["asked"]: row for row in rows}
    each_of = [float(by_count[n]["us_per_nucleus"] or 0) for n in (4_000, 16_000)]
    return {
        "head_ms_per_mpx": by_count[800]["ms_per_mpx"],
        "goal_ms_per_mpx": GOAL_MS,
        "us_per_nucleus": round(statistics.fmean(each_of), 1),
        "linear": each_of[1] <= 2 * each_of[0],
        "two_threads_speedup": by_count[800]["two_threads_speedup"],
        "rows": rows,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--model", default="embedded")
    options = parser.parse_args()
    model = load_model(options.model)
    find_instances(tile(300), model)
    found = measure(model, options.repeats)
    print(json.dumps({**found, "machine": facts()}))
    return int(not found["linear"] or float(str(found["head_ms_per_mpx"])) > GOAL_MS)


if __name__ == "__main__":
    raise SystemExit(main())
