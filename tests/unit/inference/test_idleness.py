"""Standing still counts for jobs that had tiles to do, and for them only."""

from __future__ import annotations

import pytest

from services.inference.idleness import Idleness

A, B = ("a", 1), ("b", 1)


def called(idleness: Idleness, until: float) -> None:
    """A call of the network that is over then."""
    idleness.began()
    idleness.ended(until)


def test_waiting_for_a_job_is_not_idleness() -> None:
    idleness = Idleness()
    called(idleness, 10.0)
    idleness.present(A, 100.0)
    assert idleness.before(A, 100.25) == 0.25


def test_standing_still_between_two_calls_is() -> None:
    idleness = Idleness()
    idleness.present(A, 1.0)
    called(idleness, 2.0)
    assert idleness.before(A, 2.5) == 0.5


def test_working_for_others_is_not() -> None:
    idleness = Idleness()
    idleness.present(A, 1.0)
    idleness.present(B, 1.0)
    called(idleness, 5.0)  # for A
    assert idleness.before(B, 5.0) == 0.0


def test_a_call_beside_another_had_nothing_to_wait_for() -> None:
    idleness = Idleness()
    idleness.present(A, 1.0)
    idleness.began()
    assert idleness.before(A, 2.0) == 0.0
    idleness.began()
    idleness.ended(3.0)
    assert idleness.before(A, 4.0) == 0.0
    idleness.ended(5.0)
    assert idleness.before(A, 5.5) == 0.5


def test_each_job_counts_from_its_own_first_message() -> None:
    idleness = Idleness()
    called(idleness, 1.0)
    idleness.present(A, 2.0)
    idleness.present(B, 2.75)
    idleness.present(A, 2.9)  # a later message of the same attempt
    assert idleness.before(A, 3.0) == 1.0
    assert idleness.before(B, 3.0) == pytest.approx(0.25)


def test_a_job_that_was_forgotten_among_many_costs_nothing() -> None:
    idleness = Idleness()
    for number in range(2000):
        idleness.present((str(number), 1), float(number))
    assert idleness.before(("0", 1), 5000.0) == 0.0
    assert idleness.before(("1999", 1), 2000.0) == 1.0
