"""What a failure means for other jobs, by the policy of their branch; retrying; jobs and drafts that come later."""

from __future__ import annotations

import pytest

from microtome.contracts.messages import (
    ArtifactsDeleted,
    Branch,
    BranchPolicy,
    JobCancelled,
    JobPreempted,
    JobReleased,
    JobResult,
    JobRetried,
    JobsAdded,
    JobSkipped,
)
from microtome.domain.cluster import Cluster, evolve
from microtome.domain.workflow import (
    AddJobs,
    Cancel,
    CancelWorkflow,
    Command,
    DeleteArtifacts,
    JobStatus,
    Preempt,
    Release,
    ReleaseAll,
    ReportFailure,
    ReportSuccess,
    Retry,
    RetryFailed,
    Start,
    Submit,
    Workflow,
    WorkflowStatus,
    decide,
    finished_at,
    halted,
    runnable_work_left,
    startable,
    status,
)
from microtome.errors import Conflict, InvalidWorkflow, NotFound, StaleAttempt
from tests.unit.domain.stories import BEGINNING, World, policies, spec, submitted, tell

A, B, C, D = "w.a", "w.b", "w.c", "w.d"


def failed(workflow: Workflow, job_id: str = A) -> Workflow:
    started = tell(workflow, Start(job_id, 0))
    return tell(started, ReportFailure(job_id, started.jobs[job_id].attempt, "internal", "it broke", False, BEGINNING))


def succeeded(workflow: Workflow, job_id: str) -> Workflow:
    started = tell(workflow, Start(job_id, 0))
    return tell(started, ReportSuccess(job_id, started.jobs[job_id].attempt, JobResult()))


def states(workflow: Workflow) -> str:
    return " ".join(f"{job.key}:{job.status.lower()}" for job in workflow.jobs.values())


def keys(workflow: Workflow) -> str:
    return "".join(job.key for job in startable(workflow, BEGINNING))


LINE = (spec("a", "x"), spec("b", "x"), spec("c", "y", ("b",)), spec("d", "y"))


@pytest.mark.parametrize(
    ("x", "y", "expected", "ready"),
    [
        ("halt", "halt", "a:failed b:pending c:pending d:pending", ""),
        ("halt", "skip", "a:failed b:pending c:pending d:pending", ""),
        ("skip", "halt", "a:failed b:skipped c:pending d:pending", ""),
        ("skip", "skip", "a:failed b:skipped c:skipped d:skipped", ""),
        ("skip", "continue", "a:failed b:skipped c:skipped d:pending", "d"),
        ("continue", "skip", "a:failed b:pending c:pending d:pending", "b"),
    ],
)
def test_what_a_failure_means_is_what_the_branches_say(x: str, y: str, expected: str, ready: str) -> None:
    workflow = failed(submitted(*LINE, branches=policies(x=x, y=y)))
    assert states(workflow) == expected
    assert keys(workflow) == ready


def test_skips_come_with_the_failure_and_name_their_causes() -> None:
    running = tell(submitted(*LINE, branches=policies(x="skip", y="continue")), Start(A, 0))
    events = decide(running, ReportFailure(A, 1, "internal", "it broke", False, BEGINNING))
    assert events[1:] == (JobSkipped(job_id=B, cause_job_id=A), JobSkipped(job_id=C, cause_job_id=B))
    again = decide(running, ReportFailure(A, 1, "internal", "it broke", True, BEGINNING))
    assert len(again) == 1


def test_a_branch_without_a_policy_halts_and_unspecified_is_none() -> None:
    branches = (Branch(name="x", policy=BranchPolicy.UNSPECIFIED),)
    assert halted(failed(submitted(spec("a", "x"), spec("b", "x"), branches=branches))) == {B: A}


def test_a_cancelled_job_is_passed_over_under_every_policy_but_not_by_what_depends_on_it() -> None:
    jobs = (spec("a", "x"), spec("b", "x"), spec("c", "y", ("a",)))
    for policy in ("halt", "skip", "continue"):
        workflow = tell(submitted(*jobs, branches=policies(x=policy, y="skip")), Cancel(A))
        assert states(workflow) == "a:cancelled b:pending c:skipped"
        assert keys(workflow) == "b"


def test_a_retry_brings_back_what_was_skipped_because_of_it() -> None:
    workflow = failed(submitted(*LINE, branches=policies(x="skip", y="skip")))
    assert {event.job_id for event in decide(workflow, Retry(A)) if isinstance(event, JobRetried)} == {A, B, C, D}
    back = tell(workflow, Retry(A))
    assert states(back) == "a:pending b:pending c:pending d:pending"
    assert keys(back) == "a"


def test_a_retry_leaves_skipped_what_another_job_stands_in_the_way_of() -> None:
    jobs = (spec("a", "x"), spec("b", "y"), spec("c", "z", ("a", "b")))
    workflow = failed(failed(submitted(*jobs, branches=policies(z="continue"))), B)
    assert workflow.jobs[C].cause_job_id == A
    events = decide(workflow, Retry(A))
    assert events == (JobRetried(job_id=A), JobSkipped(job_id=C, cause_job_id=B))
    workflow = tell(workflow, Retry(A))
    assert states(workflow) == "a:pending b:failed c:skipped"
    assert states(tell(workflow, Retry(B))) == "a:pending b:pending c:pending"
    assert states(tell(workflow, RetryFailed())) == "a:pending b:pending c:pending"


def test_a_skipped_job_cannot_be_retried_while_its_cause_stands() -> None:
    workflow = failed(submitted(*LINE, branches=policies(x="skip", y="skip")))
    for job_id in (B, C, D):
        with pytest.raises(Conflict, match="job 'a' is FAILED; retry that one"):
            decide(workflow, Retry(job_id))
    given_up = tell(workflow, Cancel(A))
    assert states(given_up) == "a:cancelled b:skipped c:skipped d:skipped"
    assert states(tell(given_up, Retry(B))) == "a:cancelled b:pending c:pending d:pending"


def test_all_failed_jobs_are_retried_at_once() -> None:
    workflow = failed(failed(submitted(spec("a", "x"), spec("b", "y"), spec("c", "x"))), B)
    assert decide(workflow, RetryFailed()) == (JobRetried(job_id=A), JobRetried(job_id=B))
    with pytest.raises(Conflict):
        decide(tell(workflow, RetryFailed()), RetryFailed())


def test_a_workflow_is_cancelled_from_its_end() -> None:
    jobs = (spec("a"), spec("b"), spec("c", "y"), spec("d", "z", draft=True))
    workflow = tell(failed(submitted(*jobs), C), Start(A, 0))
    events = decide(workflow, CancelWorkflow())
    assert events == (JobCancelled(job_id=D), JobCancelled(job_id=B), JobCancelled(job_id=A))
    done = tell(workflow, CancelWorkflow())
    assert states(done) == "a:cancelled b:cancelled c:failed d:cancelled"
    with pytest.raises(Conflict):
        decide(done, CancelWorkflow())


def test_a_skipped_job_is_not_cancelled() -> None:
    workflow = failed(submitted(spec("a"), spec("b"), branches=policies(main="skip")))
    with pytest.raises(Conflict):
        decide(workflow, Cancel(B))
    assert status(workflow) is WorkflowStatus.FAILED
    assert finished_at(workflow) == BEGINNING
    assert JobStatus.SKIPPED.terminal


def test_jobs_added_come_last_and_bring_what_there_is_to_know() -> None:
    workflow = submitted(spec("a", "x"), branches=policies(x="skip"))
    more = (spec("b", "x"), spec("c", "new", ("a",)))
    command = AddJobs(more, policies(new="continue"))
    (added,) = decide(workflow, command)
    assert added == JobsAdded(workflow_id="w", user_id="ada", jobs=more, branches=policies(x="skip", new="continue"))
    grown = tell(workflow, command)
    assert [(job.order, job.turn) for job in grown.jobs.values()] == [(0, 0), (1, 1), (2, 2)]
    assert decide(grown, command) == ()
    assert decide(grown, Submit("w", "ada", "name", (spec("a", "x"),), policies(x="skip"))) == ()
    assert keys(grown) == "a"


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (AddJobs(()), InvalidWorkflow),
        (AddJobs((spec("a", "other"),)), InvalidWorkflow),
        (AddJobs((spec("z", depends_on=("nobody",)),)), InvalidWorkflow),
        (AddJobs((spec("z"),), policies(main="skip")), Conflict),
        (AddJobs((spec("z"),), policies(other="skip")), InvalidWorkflow),
        (AddJobs((spec("z"),), (*policies(main="halt"), *policies(main="halt"))), InvalidWorkflow),
        (AddJobs(tuple(spec(f"n{n}") for n in range(1_000))), InvalidWorkflow),
        (Release(A), Conflict),
        (Release("w.nobody"), NotFound),
        (DeleteArtifacts(A), Conflict),
        (Preempt(A, 1), StaleAttempt),
    ],
)
def test_what_does_not_fit_is_refused(command: Command, error: type[Exception]) -> None:
    with pytest.raises(error):
        decide(submitted(spec("a")), command)


def test_a_job_added_to_a_broken_line_is_skipped_at_once() -> None:
    workflow = failed(submitted(spec("a"), branches=policies(main="skip")))
    assert decide(workflow, AddJobs((spec("b"),)))[1:] == (JobSkipped(job_id=B, cause_job_id=A),)


def test_jobs_may_be_added_when_everything_succeeded_and_the_cluster_let_go() -> None:
    world = World()
    world.submit("w", "ada", spec("a"), branches=policies(main="skip"))
    world.succeed(*world.tick())
    assert not world.cluster.workflows
    world.tell("w", DeleteArtifacts(A))
    world.tell("w", AddJobs((spec("b", depends_on=("a",)), spec("c"))))
    world.tell("w", DeleteArtifacts(A))
    assert world.log[-2][0] == ArtifactsDeleted(job_id=A, attempt=1)
    assert world.tick() == [B]
    world.fail(B)
    assert world.job(C).status is JobStatus.SKIPPED
    assert world.cluster.workflows["w"].jobs[C].status is JobStatus.SKIPPED
    replayed = Cluster()
    for event, at, stream in world.log:
        replayed = evolve(replayed, event, at, stream)
    assert replayed == world.cluster


def test_a_draft_waits_for_its_user_and_nobody_for_it() -> None:
    workflow = submitted(spec("a", draft=True), spec("b"), spec("c", "y", ("a",)))
    assert states(workflow) == "a:draft b:pending c:pending"
    assert keys(workflow) == "b"
    assert halted(workflow) == {C: A}
    done = succeeded(workflow, B)
    assert not runnable_work_left(done)
    assert status(done) is WorkflowStatus.RUNNING
    assert finished_at(done) is None
    released = tell(done, Release(A))
    assert (released.jobs[A].status, released.jobs[A].turn, released.jobs[A].order) == (JobStatus.PENDING, 3, 0)
    assert keys(released) == "a"
    assert decide(released, Release(A)) == ()
    assert status(submitted(spec("a", draft=True))) is WorkflowStatus.PENDING


def test_a_draft_that_is_started_is_the_last_of_its_branch() -> None:
    workflow = tell(submitted(spec("a", draft=True), spec("b")), Release(A))
    assert keys(workflow) == "b"
    assert keys(succeeded(workflow, B)) == "a"


def test_drafts_cannot_be_started_into_waiting_for_each_other() -> None:
    with pytest.raises(InvalidWorkflow, match="contradicts the order"):
        submitted(spec("a", draft=True), spec("b", depends_on=("a",)))
    workflow = submitted(spec("a", draft=True), spec("b", "y", ("a",)), spec("c", depends_on=("b",), draft=True))
    with pytest.raises(Conflict, match="waits for the draft 'a' of its branch; start that one first"):
        decide(workflow, Release(C))
    assert decide(workflow, ReleaseAll()) == (JobReleased(job_id=A), JobReleased(job_id=C))
    assert decide(tell(workflow, ReleaseAll()), ReleaseAll()) == ()
    given_up = tell(workflow, Cancel(A))
    with pytest.raises(Conflict, match="retry that one first"):
        decide(given_up, ReleaseAll())
    assert decide(given_up, Retry(A)) == (JobReleased(job_id=A),)


def test_a_draft_onto_a_broken_line_is_skipped_at_once() -> None:
    workflow = failed(submitted(spec("a"), spec("b", draft=True), branches=policies(main="skip")))
    assert decide(workflow, Release(B)) == (JobReleased(job_id=B), JobSkipped(job_id=B, cause_job_id=A))
    cancelled = tell(workflow, Cancel(B))
    with pytest.raises(Conflict, match="retry that one"):
        decide(cancelled, Retry(B))


def test_a_preempted_attempt_counts_as_no_failure() -> None:
    workflow = tell(submitted(spec("a")), Start(A, 3))
    assert decide(workflow, Preempt(A, 1)) == (JobPreempted(job_id=A, attempt=1),)
    job = tell(workflow, Preempt(A, 1)).jobs[A]
    assert (job.status, job.slot, job.attempt, job.failures, job.preemptions) == (JobStatus.PENDING, None, 1, 0, 1)
    with pytest.raises(StaleAttempt):
        decide(tell(workflow, Preempt(A, 1)), ReportSuccess(A, 1, JobResult()))
    assert tell(workflow, Preempt(A, 1), Start(A, 0)).jobs[A].attempt == 2


def test_files_are_deleted_once_and_the_result_stays() -> None:
    done = tell(submitted(spec("a")), Start(A, 0), ReportSuccess(A, 1, JobResult(cells=7)))
    assert decide(done, DeleteArtifacts(A)) == (ArtifactsDeleted(job_id=A, attempt=1),)
    gone = tell(done, DeleteArtifacts(A))
    assert (gone.jobs[A].result, gone.jobs[A].artifacts_deleted_at) == (JobResult(cells=7), BEGINNING)
    assert decide(gone, DeleteArtifacts(A)) == ()
