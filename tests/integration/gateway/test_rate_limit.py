"""How fast and how much one user may submit, whichever gateway is asked."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

from prometheus_client import CollectorRegistry, Counter

from microtome.eventlog.database import Database
from microtome.eventlog.migrate import migrate
from services.gateway.rate_limit import RateLimit, RateLimited
from tests.integration.gateway.conftest import Running, Start, registered


async def test_the_bucket_is_exact_across_processes(database_url: str) -> None:
    await migrate(database_url)
    burst, refill, seconds = 10, 20.0, 2.0
    refused = Counter("rate_limited", "", ["limit"], registry=CollectorRegistry())
    async with AsyncExitStack() as stack:
        # Two gateways have two pools and nothing else in common than the database.
        limits = [
            RateLimit(
                await stack.enter_async_context(await Database.connect(database_url)),
                burst=burst,
                refill_per_s=refill,
                max_pending_jobs=0,
                refused=refused,
            )
            for _ in range(2)
        ]
        granted = {"ada": 0, "bob": 0}
        told: set[tuple[str, str]] = set()

        async def hammer(limit: RateLimit, user: str) -> None:
            while time.monotonic() < end:
                try:
                    allowance = await limit.take(user)
                except RateLimited as error:
                    told.add((error.headers["Retry-After"], error.headers["RateLimit-Remaining"]))
                else:
                    granted[user] += 1
                    assert allowance is not None
                    assert 0 <= allowance.remaining < burst

        # All connections are open before the clock runs: a full bucket does not fill.
        await asyncio.gather(*[limit.peek("nobody") for limit in limits for _ in range(8)])
        began = time.monotonic()
        end = began + seconds
        await asyncio.gather(*[hammer(limit, user) for limit in limits for user in granted for _ in range(4)])
        expected = burst + refill * (time.monotonic() - began)
        print(f"granted {granted}, expected {expected:.1f}")
        for count in granted.values():
            assert expected - 1.5 <= count <= expected + 1
        assert told == {("1", "0")}
        # An idle user gets the burst back and no more.
        await asyncio.sleep(burst / refill + 0.1)
        peeked = await limits[0].peek("ada")
        assert peeked is not None
        assert (peeked.remaining, peeked.full_in) == (burst, 0)
        new = await limits[1].peek("carol")
        assert new is not None
        assert new.remaining == burst


async def test_answers_say_what_is_left(start_gateway: Start) -> None:
    async with start_gateway(rate_burst=3, rate_refill_per_s=0.1) as gateway:
        slide = await registered(gateway, mpp=0.5)
        job = {"key": "a", "type": "SEGMENT_CELLS", "slide_id": slide}
        key = {"Idempotency-Key": "once"}
        first = await gateway.submit(job, headers=key)
        assert first.status_code == 202
        assert first.headers["RateLimit-Limit"] == "3"
        assert first.headers["RateLimit-Remaining"] == "2"
        assert first.headers["RateLimit-Reset"] == "10"
        assert first.headers["RateLimit-Policy"] == '"submissions";q=3;w=30'
        assert first.headers["RateLimit"] == '"submissions";r=2;t=10'
        for _ in range(5):
            # What is known already costs nothing.
            again = await gateway.submit(job, headers=key)
            assert again.json()["id"] == first.json()["id"]
        # A document that cannot be read costs nothing either; one that is found wrong later does.
        await gateway.assert_problem(await gateway.submit(job | {"type": 5}), 422, "invalid-request")
        wrong = await gateway.submit(job | {"slide_id": "none"})
        await gateway.assert_problem(wrong, 422, "invalid-workflow")
        assert wrong.headers["RateLimit-Remaining"] == "1"
        assert (await gateway.submit(job)).status_code == 202
        refused = await gateway.submit(job)
        problem = await gateway.assert_problem(refused, 429, "rate-limited")
        assert problem["transient"] is True
        assert refused.headers["Retry-After"] in ("9", "10")
        assert refused.headers["RateLimit-Remaining"] == "0"
        assert refused.headers["RateLimit"].startswith('"submissions";r=0;t=')
        more = await gateway.post(f"/workflows/{first.json()['id']}/jobs", json={**job, "key": "b"})
        await gateway.assert_problem(more, 429, "rate-limited")
        # Somebody else is not concerned, and reading is free.
        other = await registered(gateway, mpp=0.5, user="bob")
        assert (await gateway.submit(job | {"slide_id": other}, user="bob")).status_code == 202
        assert (await gateway.get("/workflows")).status_code == 200
        assert gateway.gateway.metrics.rate_limited.labels("rate")._value.get() == 2


async def test_without_a_limit_nothing_is_counted(gateway: Running) -> None:
    slide = await registered(gateway, mpp=0.5)
    for _ in range(15):
        response = await gateway.submit({"key": "a", "type": "TISSUE_MASK", "slide_id": slide})
        assert response.status_code == 202
        assert "RateLimit-Limit" not in response.headers
    assert (await gateway.get("/status")).json()["limits"]["rate_burst"] is None


async def test_unfinished_jobs_are_capped(start_gateway: Start) -> None:
    async with start_gateway(max_pending_jobs=4) as gateway:
        slide = await registered(gateway, mpp=0.5)
        jobs = [{"key": str(number), "type": "TISSUE_MASK", "slide_id": slide} for number in range(3)]
        submitted = await gateway.submit(*jobs)
        assert submitted.status_code == 202
        refused = await gateway.submit(*jobs)
        problem = await gateway.assert_problem(refused, 429, "too-many-jobs")
        assert "3 unfinished jobs and may have 4" in problem["detail"]
        assert refused.headers["Retry-After"]
        assert (await gateway.submit(jobs[0])).status_code == 202
        for job in submitted.json()["jobs"][:2]:
            await gateway.post(f"/jobs/{job['id']}/cancel")
        assert (await gateway.submit(jobs[0])).status_code == 202
