"""The live view of a workflow.

Promises: a lost connection is opened again; as each connection begins with a snapshot, no fact
is missed. The iteration ends with the snapshot in which the workflow is finished.
Refuses: to replay single progress messages; they are lossy by design.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict, cast
from urllib.parse import quote

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from microtome.client.shapes import Workflow
from microtome.errors import Unavailable

if TYPE_CHECKING:
    from microtome.client.workflows import WorkflowCalls

FINISHED: frozenset[str] = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})
"""Statuses of a workflow in which nothing goes on by itself."""

MAX_MESSAGE_BYTES = 64 * 1024 * 1024


class LiveMessage(TypedDict):
    """A websocket message: `snapshot` has `workflow` and `as_of`, `event` has `type`, `progress` has the counters."""

    kind: Literal["snapshot", "event", "progress"]
    workflow: NotRequired[Workflow]
    position: NotRequired[str]
    as_of: NotRequired[str]
    type: NotRequired[str]
    job_id: NotRequired[str | None]
    at: NotRequired[str]
    data: NotRequired[dict[str, Any]]
    attempt: NotRequired[int]
    stage: NotRequired[str]
    tiles_processed: NotRequired[int]
    tiles_total: NotRequired[int | None]
    tiles_skipped: NotRequired[int]
    cells: NotRequired[int | None]


async def watch_workflow(
    client: WorkflowCalls, workflow_id: str, *, patience_seconds: float
) -> AsyncIterator[LiveMessage]:
    """Yield messages until the workflow is finished.

    Raises ApiProblem if there is no such workflow, Unavailable after `patience_seconds` without a message
    from a server that cannot be reached.
    """
    address = client.url.replace("http", "ws", 1)
    url = f"{address}/api/v1/ws/workflows/{quote(workflow_id, safe='')}?user={quote(client.user, safe='')}"
    heard = time.monotonic()
    pause, broken = 0.1, False
    while True:
        try:
            if broken:
                # The websocket's own refusals are hard to tell apart; a plain GET says who is unknown to whom.
                await client.workflow(workflow_id)
            broken = True
            async with connect(url, max_size=MAX_MESSAGE_BYTES, proxy=None, open_timeout=10) as socket:
                async for text in socket:
                    heard, pause = time.monotonic(), 0.1
                    message = cast("LiveMessage", json.loads(text))
                    yield message
                    if message["kind"] == "snapshot" and message["workflow"]["status"] in FINISHED:
                        return
        except (OSError, TimeoutError, Unavailable, ConnectionClosed, InvalidHandshake) as error:
            if time.monotonic() - heard > patience_seconds:
                raise Unavailable(f"The live view of {client.url} is lost: {error}") from error
        await asyncio.sleep(pause)
        pause = min(pause * 2, 3.0)
