"""The short way of reads that are asked for most answers exactly as the usual way does, which a query takes."""

from __future__ import annotations

import asyncio

from tests.integration.gateway.conftest import Running, registered
from tests.integration.gateway.test_workflows import job

# Varies by itself.
ITS_OWN = {"date", "content-length"}


async def settled(gateway: Running, path: str) -> str:
    """The ETag of a document that no longer changes: what follows from a submission comes a moment later."""
    before, etag = "", (await gateway.get(path)).headers["etag"]
    async with asyncio.timeout(20):
        while etag != before:
            await asyncio.sleep(0.5)
            before, etag = etag, (await gateway.get(path)).headers["etag"]
    return str(etag)


async def test_with_and_without_a_query_the_answer_is_the_same(gateway: Running) -> None:
    slide = await registered(gateway, mpp=0.5)
    workflow = (await gateway.submit(job(slide, draft=True))).json()
    paths = [f"/workflows/{workflow['id']}", f"/jobs/{workflow['jobs'][0]['id']}", "/workflows/none", "/jobs/none"]
    etag = await settled(gateway, paths[0])
    users: list[dict[str, str]] = [
        {"X-User-ID": "ada"},
        {"X-User-ID": "bob"},
        {},
        {"X-User-ID": "a b"},
        {"X-User-ID": ""},
    ]
    asked = [{**user, **more} for user in users for more in ({}, {"If-None-Match": etag})]
    seen = set()
    for path in paths:
        for headers in asked:
            url = f"/api/v1{path}"
            quick = await gateway.http.get(url, headers=headers)
            usual = await gateway.http.get(f"{url}?unknown=1", headers=headers)
            assert (quick.status_code, quick.content) == (usual.status_code, usual.content), (path, headers)
            assert {name: value for name, value in quick.headers.items() if name not in ITS_OWN} == {
                name: value for name, value in usual.headers.items() if name not in ITS_OWN
            }
            seen.add((quick.status_code, quick.json()["code"] if quick.status_code >= 400 else ""))
    assert seen == {(200, ""), (304, ""), (404, "not-found"), (401, "user-required"), (400, "invalid-user")}
