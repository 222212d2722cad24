"""Graphs that could never be walked are refused, by the names of their jobs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from microtome.contracts.messages import JobSpec, JobType
from microtome.domain.graph import MAX_DEPENDENCIES, MAX_JOBS, build, extended, moved_to_the_end, restored, validate
from microtome.errors import InvalidWorkflow
from tests.unit.domain.stories import spec


@pytest.mark.parametrize(
    ("jobs", "message"),
    [
        ((), "at least one job"),
        ((spec("a"), spec("a", "other")), "'a' is given to more than one"),
        ((spec("a"), replace(spec("b"), job_id="w.a")), "'b' has the id of another"),
        ((spec("a", depends_on=("z",)),), r"'a' depends on 'w\.z', which is no job"),
        ((spec("a", depends_on=("a",)),), "cycle: 'a' → 'a'"),
        ((spec("a", "x", ("c",)), spec("b", "y", ("a",)), spec("c", "z", ("b",))), "cycle: 'a' → 'c' → 'b' → 'a'"),
        ((spec("a", depends_on=("b",)), spec("b")), "'a' depends on 'b'; 'b' comes after 'a' in branch 'main'"),
        (
            (spec("a", "x", ("d",)), spec("b", "x"), spec("c", "y", ("b",)), spec("d", "y")),
            "contradicts the order of a branch.*'d' comes after 'c' in branch 'y'; 'c' depends on 'b'",
        ),
        ((spec("a b"),), "the key 'a b' must be"),
        ((spec("a\n"),), "must be"),
        ((spec("k" * 65),), "must be 1 to 64"),
        ((spec("a", branch=""),), "the branch '' must be"),
        ((replace(spec("a"), type=JobType.UNSPECIFIED),), "'a' has no type"),
        ((replace(spec("a"), slide_id=""),), "needs an id and a slide"),
        (tuple(spec(f"j{n}") for n in range(MAX_JOBS + 1)), "at most 1000 jobs; this one has 1001"),
    ],
)
def test_an_impossible_graph_is_refused_by_name(jobs: tuple[JobSpec, ...], message: str) -> None:
    with pytest.raises(InvalidWorkflow, match=message):
        validate("name", jobs)


def test_a_name_has_a_limit() -> None:
    validate("n" * 200, (spec("a"),))
    with pytest.raises(InvalidWorkflow, match="at most 200"):
        validate("n" * 201, (spec("a"),))


def test_a_dependency_may_point_forward_to_another_branch_or_backward_in_its_own() -> None:
    validate("", (spec("a", "x", ("b",)), spec("b", "y"), spec("c", "y", ("b",))))


def test_the_deepest_chain_allowed_is_checked_without_recursion() -> None:
    chain = [spec(f"j{n}", f"b{n}", (f"j{n + 1}",) if n + 1 < MAX_JOBS else ()) for n in range(MAX_JOBS)]
    validate("deep", chain)
    with pytest.raises(InvalidWorkflow, match="cycle"):
        validate("deep", [*chain[:-1], replace(chain[-1], depends_on=(chain[0].job_id,))])


def test_dependencies_have_a_limit_all_together() -> None:
    first = [spec(f"a{n}", "x") for n in range(100)]
    ids = tuple(f"a{n}" for n in range(100))
    second = [spec(f"b{n}", "y", ids) for n in range(MAX_DEPENDENCIES // 100)]
    validate("wide", [*first, *second])
    with pytest.raises(InvalidWorkflow, match=f"at most {MAX_DEPENDENCIES} dependencies; this one has 10001"):
        validate("wide", [*first, *second, spec("c", "z", ("a0",))])


def test_the_graph_knows_lines_needs_and_feeds() -> None:
    graph = build((spec("a"), spec("b", "x", ("a", "a")), spec("c")))
    assert graph.turns == ("w.a", "w.b", "w.c")
    assert graph.branches == {"main": 0b101, "x": 0b010}
    assert graph.needs == (0, 0b001, 0)
    assert graph.feeds == (0b010, 0, 0)
    assert extended(build((spec("a"),)), (spec("b", "x", ("a",)), spec("c"))) == graph


def test_a_draft_that_is_started_goes_to_the_end_and_keeps_its_edges() -> None:
    jobs = (spec("a"), spec("b", "x", ("a",)), spec("c", "x", ("b",)), spec("d"))
    moved = moved_to_the_end(build(jobs), jobs[0], 0)
    assert moved == restored([(jobs[0], 4), (jobs[1], 1), (jobs[2], 2), (jobs[3], 3)])
    assert moved.branches == {"main": 0b11000, "x": 0b110}
    assert moved.needs[1] == 0b10000
