"""Workflows: submit, list, look at."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response

from services.gateway import views
from services.gateway.context import Context
from services.gateway.documents import WorkflowIn
from services.gateway.etag import NOT_MODIFIED, accepted, answer
from services.gateway.user import User

router = APIRouter(tags=["workflows"])

_IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        max_length=200,
        description="Any text of your own; sent again, it gives the same workflow.",
    ),
]


@router.post("/workflows", response_model=views.Workflow, status_code=202, summary="Submit a workflow")
async def submit(wanted: WorkflowIn, user: User, gateway: Context, idempotency_key: _IdempotencyKey = None) -> Response:
    """Record a graph of jobs; they start as soon as the limits allow."""
    workflow_id = await gateway.submissions.submit(user, wanted, idempotency_key or None)
    shown = await gateway.showing.workflow(user, workflow_id)
    return accepted(shown.rendered, {"Location": f"/api/v1/workflows/{workflow_id}"})


@router.get("/workflows", summary="Your workflows, newest first")
async def workflows(
    user: User, gateway: Context, limit: Annotated[int, Query(ge=1, le=200)] = 50
) -> list[views.Workflow]:
    """List the user's workflows with their jobs and progress."""
    records = await gateway.queries.workflows(user, limit)
    return [views.Workflow.model_validate(document) for document in await gateway.showing.documents(records)]


@router.get("/workflows/{workflow_id}", response_model=views.Workflow, responses=NOT_MODIFIED, summary="One workflow")
async def workflow(workflow_id: str, user: User, gateway: Context, request: Request) -> Response:
    """Show a workflow with its jobs and progress."""
    return answer(request, (await gateway.showing.workflow(user, workflow_id)).rendered)
