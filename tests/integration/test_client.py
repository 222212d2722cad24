"""The API client against a real gateway, which dies on the way."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from microtome.client import ApiClient, ApiProblem, BlockingApiClient, JobIn
from microtome.embedded.ports import free_ports
from microtome.embedded.supervisor import EmbeddedStack
from microtome.errors import Unavailable


async def test_upload_refusals_and_a_live_view_that_outlives_the_gateway(stack_home: Path, small_slide: Path) -> None:
    async with (
        EmbeddedStack(stack_home, services=("gateway",), durable=False) as stack,
        ApiClient(stack.url, "ada") as client,
    ):
        sent: list[tuple[int, int]] = []
        slide = await client.upload_slide(small_slide, progress=lambda done, total: sent.append((done, total)))
        size = slide["size_bytes"]
        assert sent[-1] == (size, size)
        assert len(sent) > 1
        assert (size, slide["width"], slide["height"]) == (1938955, 2220, 2967)
        assert [known["id"] for known in await client.slides()] == [slide["id"]]

        async with ApiClient(stack.url, "bob") as stranger:
            with pytest.raises(ApiProblem) as refused:
                await stranger.slide(slide["id"])
        assert (refused.value.problem.status, refused.value.problem.code) == (404, "not-found")

        with pytest.raises(ApiProblem) as foreign:
            async for _ in client.watch("00000000-0000-0000-0000-000000000000"):
                pass
        assert foreign.value.problem.status == 404

        tissue: JobIn = {"key": "tissue", "type": "TISSUE_MASK", "slide_id": slide["id"]}
        workflow = await client.create_workflow("watched", [tissue])
        statuses: asyncio.Queue[str] = asyncio.Queue()

        async def follow() -> None:
            async for message in client.watch(workflow["id"]):
                if message["kind"] == "snapshot":
                    statuses.put_nowait(message["workflow"]["status"])

        following = asyncio.create_task(follow())
        assert await statuses.get() == "PENDING"
        await stack.kill("gateway")
        await stack.wait_ready("gateway")
        # Without a scheduler nothing starts: what ends the workflow is this.
        await client.cancel(workflow["jobs"][0]["id"])
        await asyncio.wait_for(following, 30)
        seen = [statuses.get_nowait() for _ in range(statuses.qsize())]
        assert seen[-1] == "CANCELLED"
        assert [known["id"] for known in await asyncio.to_thread(blocking_workflows, stack.url, workflow["id"])] == [
            workflow["jobs"][0]["id"]
        ]


def blocking_workflows(url: str, workflow_id: str) -> list:
    with BlockingApiClient(url, "ada") as client:
        last = list(client.watch(workflow_id))[-1]
        assert last["workflow"]["status"] == "CANCELLED"
        return client.workflow(workflow_id)["jobs"]


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    async with ApiClient(f"http://127.0.0.1:{free_ports(1)[0]}", "ada") as client:
        with pytest.raises(Unavailable, match="does not answer"):
            await client.health()
        with pytest.raises(Unavailable, match="lost"):
            async for _ in client.watch("x", patience_seconds=0.3):
                pass
