"""A workflow as it was: every status has its words."""

from __future__ import annotations

import io

from rich.console import Console

from microtome.contracts.messages import Branch, BranchPolicy
from microtome.domain.commands import Submit
from microtome.domain.limits import Limits
from microtome.replay import show
from microtome.replay.moment import NOW, Moment
from tests.unit.replay.recorder import Recorder, spec

LIMITS = Limits(max_workers=1, max_active_users=1)


async def test_each_job_says_what_became_of_it_or_what_it_waits_for() -> None:
    story = Recorder(LIMITS)
    jobs = (spec("w", "breaks", "x"), spec("w", "after", "x"), spec("w", "other", "y"), spec("w", "last", "y"))
    story.tell("w", Submit("w", "ada", "cohort", jobs, (Branch(name="x", policy=BranchPolicy.SKIP),)))
    story.submit("z", "bob")
    story.tick()
    begun = story.last
    story.at(5)
    story.fail("w.breaks")
    story.tick()
    shown = await show.at(story.history, "w", NOW, LIMITS, grows=False)
    document = show.document(shown)
    assert [job["status"] for job in document["jobs"]] == ["FAILED", "SKIPPED", "RUNNING", "PENDING"]
    assert document["jobs"][1]["cause_job_id"] == "w.breaks"
    assert document["jobs"][3]["waiting_for"]["kind"] == "branch"
    assert (document["line"], document["seats"]) == (["bob"], [{"seat": 0, "user_id": "ada"}])
    console = Console(width=140, record=True, file=io.StringIO())
    show.draw(console, shown)
    text = console.export_text()
    for words in (
        "internal: it broke",
        "Because of job 'breaks'.",
        "In slot 0.",
        "Behind job 'other'",
        "seats       0: ada",
    ):
        assert words in text, text
    earlier = show.document(await show.at(story.history, "w", Moment(cursor=begun), LIMITS, grows=False))
    assert [job["status"] for job in earlier["jobs"]] == ["RUNNING", "PENDING", "PENDING", "PENDING"]
