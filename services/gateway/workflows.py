"""Workflows: submit, list, look at."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query, Response

from services.gateway import views
from services.gateway.context import Context
from services.gateway.documents import WorkflowIn
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


@router.post("/workflows", status_code=202, summary="Submit a workflow")
async def submit(
    wanted: WorkflowIn, response: Response, user: User, gateway: Context, idempotency_key: _IdempotencyKey = None
) -> views.Workflow:
    """Record a graph of jobs; they start as soon as the limits allow."""
    workflow_id = await gateway.submissions.submit(user, wanted, idempotency_key or None)
    response.headers["Location"] = f"/api/v1/workflows/{workflow_id}"
    return await gateway.showing.workflow(user, workflow_id)


@router.get("/workflows", summary="Your workflows, newest first")
async def workflows(
    user: User, gateway: Context, limit: Annotated[int, Query(ge=1, le=200)] = 50
) -> list[views.Workflow]:
    """List the user's workflows with their jobs and progress."""
    return await gateway.showing.workflows(user, limit)


@router.get("/workflows/{workflow_id}", summary="One workflow")
async def workflow(workflow_id: str, user: User, gateway: Context) -> views.Workflow:
    """Show a workflow with its jobs and progress."""
    return await gateway.showing.workflow(user, workflow_id)
