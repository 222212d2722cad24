"""What the head promises besides its answer: threads run beside it, its cost is linear, and no place is felt."""

from __future__ import annotations

import threading
import time
from types import ModuleType

import numpy as np
import pytest
from numba.core.registry import CPUDispatcher

from microtome.segmentation import compose, contours, grow, measuring, peaks
from microtome.segmentation.head import Coordinates, _grown, find_instances
from microtome.segmentation.model import Model
from tests.parity.tiles import lattice, nuclei

EDGE = 384
NOWHERE = Coordinates(np.empty(0, np.float32), np.empty(0, np.float32))


@pytest.fixture(scope="module")
def crowd() -> np.ndarray:
    """Logits float32 [5, EDGE, EDGE] with some 2,000 nuclei, of which hardly any touches the edge."""
    return nuclei(4, (EDGE, EDGE), lattice((EDGE, EDGE), 8, 4), (2, 3), 0.1)


@pytest.mark.parametrize("module", [peaks, grow, compose, contours, measuring])
def test_what_is_compiled_lets_go_of_the_interpreter(module: ModuleType) -> None:
    compiled = {name: each for name, each in vars(module).items() if isinstance(each, CPUDispatcher)}
    assert compiled
    assert [name for name, each in compiled.items() if not each.targetoptions.get("nogil")] == []


def test_other_threads_run_while_it_works(model: Model, crowd: np.ndarray) -> None:
    """Who wants to run every millisecond never waits for as long as a quarter of one call."""
    logits = np.tile(crowd, (1, 1, 3))
    find_instances(logits, model)
    shares = []
    for _ in range(5):
        took = [0.0]

        def work(took: list[float] = took) -> None:
            began = time.perf_counter()
            find_instances(logits, model)
            took[0] = time.perf_counter() - began

        worker = threading.Thread(target=work)
        worker.start()
        longest, last = 0.0, time.perf_counter()
        while worker.is_alive():
            time.sleep(0.001)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
        shares.append(longest / took[0])
        # Whatever else this machine does: once is enough.
        if shares[-1] < 0.25:
            return
    pytest.fail(f"waited for these shares of a call: {shares}")


def test_sixteen_times_the_cells_cost_sixteen_times_as_much(model: Model, crowd: np.ndarray) -> None:
    """And all of them are found: there is no limit."""
    few, many = crowd, np.ascontiguousarray(np.tile(crowd, (1, 4, 4)))
    found = [len(find_instances(logits, model).label) for logits in (few, many)]
    assert found[0] > 1_500
    assert found[1] > 15.9 * found[0]
    seconds = [float("inf"), float("inf")]
    for _ in range(3):
        for k, logits in enumerate((few, many)):
            began = time.thread_time()
            find_instances(logits, model)
            seconds[k] = min(seconds[k], time.thread_time() - began)
    # Looking at all pairs of cells alone would make it more than thirty.
    assert seconds[1] < 1.7 * 16 * seconds[0]


def test_a_nucleus_has_the_same_logits_wherever_it_lies(model: Model) -> None:
    """To the last bit: absolute coordinates would round otherwise in another place."""
    part = nuclei(7, (160, 160), lattice((160, 160), 20, 10), (4, 8))
    wide = np.empty((5, 160, 4000), np.float32)
    wide[:] = nuclei(0, (1, 1), [], rough=0.0)
    here, far = 70, 3771
    for x in (here, far):
        wide[:, :, x : x + 160] = part
    seeds = find_instances(part, model).seed
    assert len(seeds) > 50
    (boxes, starts, logits, *_), (their_boxes, their_starts, their_logits, *_) = (
        _grown(wide, wide.shape[1:], seeds + np.array([0, x], np.int32), model, model.window_max, NOWHERE, 1)
        for x in (here, far)
    )
    assert np.array_equal(boxes + np.array([0, far - here, 0, far - here], np.int32), their_boxes)
    assert np.array_equal(starts, their_starts)
    assert logits[: starts[-1]].tobytes() == their_logits[: starts[-1]].tobytes()
