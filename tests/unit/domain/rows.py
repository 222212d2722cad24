"""The read models of a history, as a rebuild makes them, held against what the laws know.

Promises: every row is folded from its own stream alone, from events that went through the form in which the log stores
them. Raises `Violation` where a row says anything else than the events in the order of the log, or than the laws,
which share no code with the domain.
"""

from __future__ import annotations

from dataclasses import replace

from microtome.contracts.codec import from_json, message_type, to_json, type_name
from microtome.domain.snapshot import dump, load
from microtome.readmodels.folding import COLUMNS, SEATS, Fact, Row, Seats, fold
from tests.unit.domain.histories import History
from tests.unit.domain.laws import law

_JOB, _STATUS, _ATTEMPT, _SLOT = (COLUMNS["jobs"].index(name) for name in ("job_id", "status", "attempt", "slot"))


def check_rows(world: History, cut: int) -> None:
    """Rebuild all rows, the seats in two parts with a pause at `cut`."""
    streams: dict[str, list[Fact]] = {}
    for position, (event, at, stream) in enumerate(world.log, start=1):
        stored = from_json(message_type(type_name(event)), to_json(event))
        law(stored == event, "an event is read as it was stored", event)
        facts = streams.setdefault(stream, [])
        facts.append(Fact(stored, len(facts) + 1, position, position, at))
    seats, facts = Seats(), streams.pop(SEATS, [])
    cut %= len(facts) + 1
    seats.fold(facts[:cut])
    seats.fold(facts[cut:])
    kept = {user: seat for seat, user, _ in seats.rows()["seats"]}
    law(kept == world.laws.seats, "the rows of the seats are who is active", kept)
    jobs: list[Row] = []
    for stream, facts in streams.items():
        rows = fold(stream, facts)
        law(rows == fold(stream, facts), "a rebuild makes the same rows again", stream)
        jobs += rows["jobs"]
    shown = {row[_JOB]: (row[_STATUS], row[_ATTEMPT], row[_SLOT]) for row in jobs}
    lived = {job_id: (life.status, life.attempt, life.slot) for job_id, life in world.laws.lives.items()}
    law(shown == lived, "the rows of the jobs are their lives", set(shown.items()) ^ set(lived.items()))
    # The scheduler lets go of workflows in which everything succeeded and counts jobs that come later anew.
    for name, workflow in load(dump(world.cluster)).workflows.items():
        for job_id, job in workflow.jobs.items():
            made_of = world.states[name].jobs[job_id]
            same = replace(job, order=0, turn=0) == replace(made_of, order=0, turn=0)
            law(same, "what a snapshot knows of a job is what its row is made of", job, made_of)
