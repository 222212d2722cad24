"""The timeline of a job: waits, attempts and stages to the second."""

from __future__ import annotations

import io
from datetime import timedelta

from rich.console import Console

from microtome.domain.cluster import STREAM_PREFIX
from microtome.domain.limits import Limits
from microtome.replay import timeline_document, timeline_view
from microtome.replay.timeline import Timeline, Tracker
from tests.unit.replay.recorder import BEGINNING, Recorder, spec


def tracked(story: Recorder, job_id: str, *, own: bool = False, limits: Limits | None = None) -> Timeline:
    workflow_id = job_id.split(".", maxsplit=1)[0]
    tracker = Tracker(workflow_id, job_id, limits or story.limits, own=own)
    user = story.states[workflow_id].user_id
    for event in story.log:
        mine = event.stream == STREAM_PREFIX + workflow_id or (event.stream == "seats" and event.tenant == user)
        if mine or not own:
            tracker.take(event)
    timeline = tracker.finish(story.now)
    assert timeline is not None
    return timeline


def phases(timeline: Timeline) -> list[tuple[str, float, float | None]]:
    def second(at: object) -> float:
        return (at - BEGINNING).total_seconds()  # type: ignore[operator]

    return [
        (phase.kind, second(phase.since), None if phase.until is None else second(phase.until))
        for phase in timeline.phases
    ]


def eventful() -> Recorder:
    """bob's job waits for a seat, for a worker, for its branch, for its dependency, fails, pauses, and is lost once."""
    story = Recorder(Limits(max_workers=1, max_active_users=1))
    story.submit("a", "ada", spec("a", "one"))
    story.tick()
    story.at(1)
    story.submit("b", "bob", spec("b", "base", "other"), spec("b", "before"), spec("b", "it", depends_on=("base",)))
    story.tick()
    story.at(5)
    story.succeed("a.one")
    story.tick()  # ada's seat goes to bob; b.base starts
    assert story.job("b.base").slot == 0
    story.at(8)
    story.succeed("b.base")
    story.tick()  # b.before starts
    story.at(10)
    story.succeed("b.before")
    story.at(11)
    story.tick()  # b.it starts, one second after it could
    story.at(12)
    story.plan("b.it", 40, worker="tiler-1")
    story.at(14)
    story.fail("b.it", transient=True, worker="tiler-1")
    story.tick()
    story.at(17)
    story.tick()  # the pause of two seconds was over at 16
    story.at(20)
    story.lose("b.it", "tiler-2")
    story.tick()
    story.at(21)
    story.plan("b.it", 40, worker="tiler-3")
    story.at(30)
    story.succeed("b.it", worker="merger-1", plan=1.0, infer=7.5, merge=0.5)
    story.tick()
    return story


def test_waits_and_attempts_follow_each_other_without_gaps() -> None:
    timeline = tracked(eventful(), "b.it")
    assert phases(timeline) == [
        ("dependency", 1, 8),
        ("branch", 8, 10),
        ("worker", 10, 11),
        ("running", 11, 14),
        ("retry", 14, 16),
        ("worker", 16, 17),
        ("running", 17, 20),
        ("running", 20, 30),
    ]
    assert timeline.waited_seconds == {"dependency": 7, "branch": 2, "worker": 2, "retry": 2}
    assert timeline.phases[0].job_id == "b.base"
    assert timeline.phases[1].job_id == "b.before"


def test_attempts_say_who_worked_and_what_became_of_them() -> None:
    first, second, third = tracked(eventful(), "b.it").attempts
    assert (first.number, first.slot, first.outcome, first.workers) == (1, 0, "failed", ("tiler-1",))
    assert first.detail == "internal: it broke"
    assert first.planned_at == BEGINNING + timedelta(seconds=12)
    assert (second.outcome, second.workers, second.planned_at) == ("lost", ("tiler-2",), None)
    assert (third.number, third.outcome, third.workers) == (3, "succeeded", ("tiler-3", "merger-1"))
    assert (third.tiles_total, third.tiles_skipped) == (40, 1)


def test_a_place_in_line_is_a_phase_until_it_changes() -> None:
    story = Recorder(Limits(max_workers=1, max_active_users=1))
    for second, user in enumerate(("ada", "bob", "cy")):
        story.at(second)
        story.submit(user, user)
        story.tick()
    for second, user in ((10, "ada"), (20, "bob")):
        story.at(second)
        story.succeed(f"{user}.job")
        story.tick()
    timeline = tracked(story, "cy.job")
    assert phases(timeline) == [("seat", 2, 10), ("seat", 10, 20), ("running", 20, None)]
    assert [phase.position for phase in timeline.phases] == [2, 1, None]


def test_own_events_alone_tell_the_same_waits_and_nothing_of_others() -> None:
    story = Recorder(Limits(max_workers=1, max_active_users=1))
    for user in ("ada", "bob", "cy"):
        story.submit(user, user)
        story.tick()
    story.at(10)
    story.succeed("ada.job")
    story.tick()
    story.at(20)
    story.succeed("bob.job")
    story.tick()
    whole, own = tracked(story, "cy.job"), tracked(story, "cy.job", own=True)
    assert own.waited_seconds == whole.waited_seconds == {"seat": 20.0}
    assert [phase.position for phase in own.phases] == [None, None]
    assert own.attempts == whole.attempts


def test_a_job_that_still_waits_is_told_up_to_now() -> None:
    story = Recorder(Limits(max_workers=1))
    story.submit("a", "ada")
    story.submit("b", "bob")
    story.tick()
    story.at(100)
    timeline = tracked(story, "b.job")
    assert phases(timeline) == [("worker", 0, None)]
    assert timeline.waited_seconds == {"worker": 100.0}


def test_of_the_sentences_about_a_phase_the_one_that_was_true_for_longest_is_kept() -> None:
    story = Recorder(Limits(max_workers=1))
    story.submit("a", "ada", spec("a", "long"))
    story.tick()
    story.submit("b", "bob")
    story.tick()
    story.at(50)
    story.succeed("a.long")
    story.at(51)
    story.tick()
    (waited, ran) = tracked(story, "b.job").phases
    assert (waited.kind, ran.kind) == ("worker", "running")
    assert waited.seconds(story.now) == 51
    assert "busy" in waited.detail


def test_json_has_every_phase_and_the_chart_every_reason() -> None:
    timeline = tracked(eventful(), "b.it")
    document = timeline_document.document(timeline)
    assert [phase["kind"] for phase in document["phases"]] == [kind for kind, _, _ in phases(timeline)]
    assert document["stage_seconds"] == {"plan": 1.0, "infer": 7.5, "merge": 0.5}
    assert document["status"] == "SUCCEEDED"
    assert document["attempts"][1]["outcome"] == "lost"
    console = Console(width=120, record=True, file=io.StringIO())
    timeline_view.draw(console, timeline)
    text = console.export_text()
    for word in ("dependency", "branch", "worker", "attempt 3", "tiler-3, merger-1", "infer", "7.5 s", "lost"):
        assert word in text, text
