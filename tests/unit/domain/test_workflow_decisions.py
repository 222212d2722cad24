"""The laws of one workflow, one example each."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from microtome.contracts.messages import (
    Branch,
    BranchPolicy,
    JobAttemptLost,
    JobFailed,
    JobPlanned,
    JobResult,
    JobStarted,
    JobSucceeded,
    SlideRegistered,
)
from microtome.domain.workflow import (
    Cancel,
    Command,
    JobStatus,
    Limits,
    LoseAttempt,
    ReportFailure,
    ReportPlanned,
    ReportSuccess,
    Retry,
    Start,
    Submit,
    Workflow,
    WorkflowStatus,
    check_attempt,
    decide,
    evolve,
    finished_at,
    halted,
    runnable_work_left,
    startable,
    status,
)
from microtome.errors import ConfigurationError, Conflict, InvalidWorkflow, NotFound, StaleAttempt
from tests.unit.domain.stories import BEGINNING, spec, submitted, tell

A, B = "w.a", "w.b"
RESULT = JobResult(tiles_total=4, cells=7)
LATER = BEGINNING + timedelta(hours=1)


def failure(attempt: int, *, transient: bool = False, job: str = A) -> ReportFailure:
    return ReportFailure(job, attempt, "internal", "it broke", transient, BEGINNING)


def loss(attempt: int) -> LoseAttempt:
    return LoseAttempt(A, attempt, "tiler-1", "The lease expired.")


def keys(workflow: Workflow) -> str:
    return "".join(job.key for job in startable(workflow, BEGINNING))


def test_a_submission_is_validated_and_repeating_it_changes_nothing() -> None:
    command = Submit("w", "ada", "name", (spec("a"),))
    workflow = tell(None, command)
    assert status(workflow) is WorkflowStatus.PENDING
    assert decide(workflow, command) == ()
    with pytest.raises(Conflict):
        decide(workflow, replace(command, user_id="eve"))
    branches = (Branch(name=command.jobs[0].branch, policy=BranchPolicy.SKIP),)
    with pytest.raises(Conflict):
        decide(workflow, replace(command, branches=branches))
    other = tell(None, replace(command, branches=branches))
    assert decide(other, replace(command, branches=branches)) == ()
    with pytest.raises(Conflict):
        decide(other, command)
    with pytest.raises(InvalidWorkflow):
        decide(None, replace(command, jobs=()))


def test_a_job_that_succeeds() -> None:
    workflow = tell(submitted(spec("a")), Start(A, 2))
    job = workflow.jobs[A]
    assert (job.status, job.attempt, job.slot, job.started_at) == (JobStatus.RUNNING, 1, 2, BEGINNING)
    planned = JobPlanned(job_id=A, attempt=1, tiles_total=4)
    workflow = tell(workflow, ReportPlanned(planned), ReportSuccess(A, 1, RESULT))
    job = workflow.jobs[A]
    assert (job.status, job.slot, job.planned, job.result) == (JobStatus.SUCCEEDED, None, planned, RESULT)
    assert status(workflow) is WorkflowStatus.SUCCEEDED
    assert finished_at(workflow) == BEGINNING


def test_repeated_reports_change_nothing() -> None:
    planned = JobPlanned(job_id=A, attempt=1, tiles_total=4)
    running = tell(submitted(spec("a")), Start(A, 0), ReportPlanned(planned))
    assert decide(running, ReportPlanned(planned)) == ()
    with pytest.raises(Conflict):
        decide(running, ReportPlanned(replace(planned, tiles_total=5)))
    done = tell(running, ReportSuccess(A, 1, RESULT))
    assert decide(done, ReportSuccess(A, 1, replace(RESULT, notes=("again",)))) == ()
    for transient in (True, False):
        failed = tell(running, failure(1, transient=transient))
        assert decide(failed, failure(1, transient=transient)) == ()
    assert decide(tell(running, loss(1)), loss(1)) == ()


@pytest.mark.parametrize(
    "late",
    [
        ReportPlanned(JobPlanned(job_id=A, attempt=1)),
        ReportSuccess(A, 1, RESULT),
        failure(1),
        loss(1),
        ReportSuccess(A, 3, RESULT),
    ],
    ids=lambda command: type(command).__name__,
)
@pytest.mark.parametrize("ending", ["restarted", "cancelled", "pending"])
def test_reports_of_any_other_attempt_are_refused(late: Command, ending: str) -> None:
    workflow = tell(submitted(spec("a")), Start(A, 0))
    if ending == "restarted":
        workflow = tell(workflow, failure(1, transient=True), Start(A, 0))
    elif ending == "cancelled":
        workflow = tell(workflow, Cancel(A))
    else:
        workflow = tell(workflow, Cancel(A), Retry(A))
    with pytest.raises(StaleAttempt):
        decide(workflow, late)


def test_the_fence_lets_only_the_running_attempt_through() -> None:
    workflow = tell(submitted(spec("a")), Start(A, 0))
    assert check_attempt(workflow, A, 1).key == "a"
    with pytest.raises(StaleAttempt):
        check_attempt(workflow, A, 2)
    with pytest.raises(NotFound):
        check_attempt(workflow, "w.z", 1)


def test_transient_failures_back_off_until_the_attempts_are_used_up() -> None:
    workflow = submitted(spec("a"))
    waits = []
    for attempt in range(1, 8):
        workflow = tell(workflow, Start(A, 0))
        (event,) = decide(workflow, failure(attempt, transient=True), Limits(max_attempts=7))
        assert isinstance(event, JobFailed)
        waits.append((event.retry_at - BEGINNING).total_seconds() if event.retry_at else None)
        workflow = evolve(workflow, event, BEGINNING)
    assert waits == [2, 4, 8, 16, 32, 60, None]
    assert workflow.jobs[A].status is JobStatus.FAILED


def test_a_job_waits_for_its_retry_time() -> None:
    workflow = tell(submitted(spec("a")), Start(A, 0), failure(1, transient=True))
    job = workflow.jobs[A]
    assert job.status is JobStatus.PENDING
    assert job.not_before == BEGINNING + timedelta(seconds=2)
    assert startable(workflow, BEGINNING + timedelta(seconds=1.9)) == ()
    assert startable(workflow, BEGINNING + timedelta(seconds=2)) == (job,)
    assert runnable_work_left(workflow)


def test_a_permanent_failure_is_not_tried_again() -> None:
    workflow = tell(submitted(spec("a")), Start(A, 0), failure(1))
    assert workflow.jobs[A].status is JobStatus.FAILED
    assert workflow.jobs[A].error is not None
    assert status(workflow) is WorkflowStatus.FAILED


def test_lost_attempts_go_back_at_once_until_the_attempts_are_used_up() -> None:
    workflow = submitted(spec("a"))
    for attempt in (1, 2):
        workflow = tell(workflow, Start(A, 0))
        (event,) = decide(workflow, loss(attempt), Limits(max_attempts=3))
        assert isinstance(event, JobAttemptLost)
        workflow = evolve(workflow, event, BEGINNING)
        assert keys(workflow) == "a"
    workflow = tell(workflow, Start(A, 0), loss(3), limits=Limits(max_attempts=3))
    job = workflow.jobs[A]
    assert (job.status, job.attempt) == (JobStatus.FAILED, 3)
    assert job.error is not None
    assert job.error.code == "worker-lost"
    assert "attempt 3 of 3" in job.error.detail


def test_failures_and_losses_use_up_the_same_attempts() -> None:
    workflow = tell(submitted(spec("a")), Start(A, 0), loss(1), Start(A, 0), limits=Limits(max_attempts=2))
    (event,) = decide(workflow, failure(2, transient=True), Limits(max_attempts=2))
    assert isinstance(event, JobFailed)
    assert event.retry_at is None


def test_a_users_retry_starts_afresh_but_attempt_numbers_go_on() -> None:
    workflow = tell(submitted(spec("a")), Start(A, 0), loss(1), Start(A, 0), failure(2), Retry(A))
    job = workflow.jobs[A]
    assert (job.status, job.attempt, job.failures, job.error) == (JobStatus.PENDING, 2, 0, None)
    assert decide(workflow, Start(A, 0)) == (JobStarted(job_id=A, attempt=3, slot=0),)


@pytest.mark.parametrize("state", ["pending", "running", "failed"])
def test_what_has_not_ended_well_can_be_cancelled_and_retried(state: str) -> None:
    workflow = submitted(spec("a"))
    if state != "pending":
        workflow = tell(workflow, Start(A, 0))
    if state == "failed":
        workflow = tell(workflow, failure(1))
    workflow = tell(workflow, Cancel(A))
    assert workflow.jobs[A].status is JobStatus.CANCELLED
    assert workflow.jobs[A].slot is None
    assert status(workflow) is WorkflowStatus.CANCELLED
    assert keys(tell(workflow, Retry(A))) == "a"


def test_commands_that_the_state_does_not_allow_conflict() -> None:
    pending = submitted(spec("a"), spec("b"))
    running = tell(pending, Start(A, 0))
    done = tell(running, ReportSuccess(A, 1, RESULT))
    cancelled = tell(pending, Cancel(A))
    refused: list[tuple[Workflow, Command]] = [
        (pending, Retry(A)),
        (running, Retry(A)),
        (done, Retry(A)),
        (done, Cancel(A)),
        (cancelled, Cancel(A)),
        (running, Start(A, 0)),
        (done, Start(A, 0)),
        (cancelled, Start(A, 0)),
        (pending, Start(B, 0)),
    ]
    for workflow, command in refused:
        with pytest.raises(Conflict):
            decide(workflow, command)


def test_unknown_workflows_jobs_and_events_are_not_found() -> None:
    with pytest.raises(NotFound):
        decide(None, Cancel(A))
    with pytest.raises(NotFound):
        decide(submitted(spec("a")), Cancel("w.z"))
    with pytest.raises(NotFound):
        evolve(None, JobStarted(job_id=A), BEGINNING)
    with pytest.raises(NotFound):
        evolve(submitted(spec("a")), SlideRegistered(), BEGINNING)


def test_a_branch_is_first_in_first_out_and_other_branches_go_on() -> None:
    workflow = submitted(spec("a", "x"), spec("b", "x"), spec("c", "y"))
    assert keys(workflow) == "ac"
    workflow = tell(workflow, Start(A, 0))
    assert keys(workflow) == "c"
    assert keys(tell(workflow, ReportSuccess(A, 1, RESULT))) == "bc"


def test_a_failed_job_halts_its_branch_until_it_is_retried_or_cancelled() -> None:
    workflow = tell(submitted(spec("a"), spec("b"), spec("c"), spec("d", "y")), Start(A, 0), failure(1))
    assert halted(workflow) == {B: A, "w.c": A}
    assert keys(workflow) == "d"
    assert status(workflow) is WorkflowStatus.RUNNING
    assert keys(tell(workflow, Retry(A))) == "ad"
    assert keys(tell(workflow, Cancel(A))) == "bd"


def test_a_cancelled_job_is_passed_over_by_its_branch_but_not_by_what_depends_on_it() -> None:
    workflow = tell(submitted(spec("a"), spec("b"), spec("c", "y", ("a",)), spec("d", "y")), Cancel(A))
    assert halted(workflow) == {"w.c": A, "w.d": A}
    assert keys(workflow) == "b"
    workflow = tell(workflow, Start(B, 0), ReportSuccess(B, 1, RESULT))
    assert not runnable_work_left(workflow)
    assert status(workflow) is WorkflowStatus.CANCELLED
    assert keys(tell(workflow, Retry(A))) == "a"


def test_a_job_retried_behind_a_running_one_waits_its_turn() -> None:
    workflow = tell(submitted(spec("a"), spec("b"), spec("c")), Cancel(A), Start(B, 0), Retry(A))
    assert keys(workflow) == ""
    assert keys(tell(workflow, ReportSuccess(B, 1, RESULT))) == "a"


def test_a_failed_dependency_halts_across_branches_and_further() -> None:
    workflow = tell(
        submitted(spec("a", "x"), spec("b", "y", ("a",)), spec("c", "y"), spec("d", "z", ("c",))),
        Start(A, 0),
        failure(1),
    )
    assert halted(workflow) == {B: A, "w.c": A, "w.d": A}
    assert not runnable_work_left(workflow)
    assert status(workflow) is WorkflowStatus.FAILED
    cancelled = tell(workflow, Cancel(A))
    assert set(halted(cancelled)) == {B, "w.c", "w.d"}
    assert status(cancelled) is WorkflowStatus.CANCELLED
    assert keys(tell(cancelled, Cancel(B))) == "c"


def test_a_cancelled_job_awaits_no_retry_time() -> None:
    workflow = tell(submitted(spec("a")), Start(A, 0), failure(1, transient=True), Cancel(A))
    assert workflow.jobs[A].not_before is None


def test_every_state_is_the_fold_of_its_events_and_old_states_stay() -> None:
    before = submitted(spec("a"))
    after = evolve(before, JobStarted(job_id=A, attempt=1), BEGINNING)
    assert before.jobs[A].status is JobStatus.PENDING
    assert evolve(before, JobStarted(job_id=A, attempt=1), BEGINNING) == after
    again = evolve(after, JobSucceeded(job_id=A, attempt=1, result=RESULT), LATER)
    assert again.jobs[A].finished_at == LATER


@pytest.mark.parametrize("name", ["max_workers", "max_active_users", "max_attempts"])
def test_limits_under_which_nothing_could_run_are_refused(name: str) -> None:
    with pytest.raises(ConfigurationError):
        Limits(**{name: 0})
