"""Workflows: submit, list, look at, start, cancel, retry, delete the files of."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response

from microtome.domain.commands import CancelWorkflow, Command, ReleaseAll, RetryFailed
from microtome.domain.state import WorkflowStatus
from microtome.readmodels.listing import WorkflowFilter
from services.gateway import history, views
from services.gateway.context import Context, Gateway
from services.gateway.documents import JobsIn, WorkflowIn
from services.gateway.etag import NOT_MODIFIED, accepted, answer
from services.gateway.paging import Limit, PageCursor, page
from services.gateway.quick import QuickRead
from services.gateway.showing import Shown
from services.gateway.spending import spend
from services.gateway.user import User

router = APIRouter(tags=["workflows"])
reads = APIRouter(tags=["workflows"], route_class=QuickRead)

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        description="Any text of your own. Sent again with the same body it changes nothing more and gives the same "
        "answer; with another body it is refused with 409.",
    ),
]
_Status = Annotated[
    list[views.WorkflowStatusName] | None, Query(description="Only these; may be given more than once.")
]


@router.post("/workflows", response_model=views.Workflow, status_code=202, summary="Submit a workflow")
async def submit(
    wanted: WorkflowIn, request: Request, user: User, gateway: Context, idempotency_key: IdempotencyKey = None
) -> Response:
    """Record a graph of jobs; they start as soon as the limits allow, drafts when you start them."""
    workflow_id = await gateway.submissions.submitted_before(user, wanted, idempotency_key)
    if workflow_id is None:
        await spend(gateway, request, user, len(wanted.jobs))
        record = await gateway.submissions.submit(user, wanted, idempotency_key)
        workflow_id = record.state.workflow_id
        if idempotency_key is None:
            return _submitted(workflow_id, gateway.showing.fresh(record))
    return _submitted(workflow_id, await gateway.showing.workflow(user, workflow_id))


def _submitted(workflow_id: str, shown: Shown) -> Response:
    return accepted(shown.rendered, {"Location": f"/api/v1/workflows/{workflow_id}"})


@router.get("/workflows", response_model=views.WorkflowPage, responses=NOT_MODIFIED, summary="Your workflows")
async def workflows(
    request: Request,
    user: User,
    gateway: Context,
    status: _Status = None,
    name: Annotated[str, Query(max_length=200, description="Part of the name, in any case.")] = "",
    slide_id: Annotated[str, Query(max_length=64, description="With a job on this slide.")] = "",
    branch: Annotated[str, Query(max_length=64, description="With a job in this branch.")] = "",
    limit: Limit = 50,
    cursor: PageCursor = None,
) -> Response:
    """List the user's workflows with their jobs and progress, newest first.

    A page may be shorter than `limit`: it ends after about 2,000 jobs.
    """
    wanted = WorkflowFilter(
        statuses=tuple(map(WorkflowStatus, status or ())), name=name, slide_id=slide_id, branch=branch
    )
    found = await gateway.queries.find_workflows(user, wanted, limit, cursor)
    return page(request, await gateway.showing.documents(found.items), found.next_cursor)


@reads.get("/workflows/{workflow_id}", response_model=views.Workflow, responses=NOT_MODIFIED, summary="One workflow")
async def workflow(workflow_id: str, user: User, gateway: Context, request: Request, at: history.At = None) -> Response:
    """Show a workflow with its jobs and progress, as it is or as it was."""
    if at is not None:
        return answer(request, await history.workflow_at(gateway, user, workflow_id, at))
    return answer(request, (await gateway.showing.workflow(user, workflow_id)).rendered)


@router.post(
    "/workflows/{workflow_id}/jobs", response_model=views.Workflow, status_code=202, summary="Add jobs to a workflow"
)
async def add_jobs(
    workflow_id: str,
    wanted: JobsIn,
    request: Request,
    user: User,
    gateway: Context,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Record further jobs, many (`{"jobs": […]}`) or a single one; they come last in their branches."""
    await add(gateway, request, user, workflow_id, wanted, idempotency_key)
    return accepted((await gateway.showing.workflow(user, workflow_id)).rendered)


@router.post(
    "/workflows/{workflow_id}/start", response_model=views.Workflow, status_code=202, summary="Start all drafts"
)
async def start_workflow(workflow_id: str, user: User, gateway: Context) -> Response:
    """Start every draft of the workflow."""
    return await _commanded(gateway, user, workflow_id, ReleaseAll())


@router.post(
    "/workflows/{workflow_id}/cancel", response_model=views.Workflow, status_code=202, summary="Cancel a workflow"
)
async def cancel_workflow(workflow_id: str, user: User, gateway: Context) -> Response:
    """Give up every job that has not ended; running ones stop within seconds."""
    return await _commanded(gateway, user, workflow_id, CancelWorkflow())


@router.post(
    "/workflows/{workflow_id}/retry-failed",
    response_model=views.Workflow,
    status_code=202,
    summary="Retry all failed jobs",
)
async def retry_failed(workflow_id: str, user: User, gateway: Context) -> Response:
    """Ask for a new attempt at every failed job, and at what was skipped because of it."""
    return await _commanded(gateway, user, workflow_id, RetryFailed())


@router.delete(
    "/workflows/{workflow_id}/artifacts", status_code=204, response_class=Response, summary="Delete all files"
)
async def delete_artifacts(workflow_id: str, user: User, gateway: Context) -> Response:
    """Remove what the workflow's jobs wrote; their history and their numbers stay."""
    await gateway.deletions.artifacts_of_workflow(user, workflow_id)
    return Response(status_code=204)


async def add(
    gateway: Gateway, request: Request, user: str, workflow_id: str, wanted: JobsIn, idempotency_key: str | None
) -> tuple[str, ...]:
    """Add jobs to a workflow of the user; their ids. Raises `NotFound` and what `Submissions.add` raises."""
    await gateway.showing.check_owner(user, workflow_id)
    before = await gateway.submissions.added_before(user, workflow_id, wanted, idempotency_key)
    if before is not None:
        return before
    await spend(gateway, request, user, len(wanted.jobs))
    return await gateway.submissions.add(user, workflow_id, wanted, idempotency_key)


async def _commanded(gateway: Gateway, user: str, workflow_id: str, command: Command) -> Response:
    await gateway.showing.check_owner(user, workflow_id)
    await gateway.workflows.execute(workflow_id, command)
    return accepted((await gateway.showing.workflow(user, workflow_id)).rendered)
