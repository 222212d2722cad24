"""What is said about bad input, as its sender reads it."""

from __future__ import annotations

from typing import Any

from tests.integration.gateway.conftest import Running

JSON = {"Content-Type": "application/json"}


async def test_complaints_name_the_place_and_what_to_do(gateway: Running) -> None:
    async def complaint(**request: Any) -> tuple[str, str]:
        problem = await gateway.assert_problem(await gateway.post("/workflows", **request), 422, "invalid-request")
        (error,) = problem["errors"]
        assert problem["detail"] == f"{error['field']}: {error['detail']}"
        return error["field"], error["detail"]

    job = {"key": "a", "type": "TISSUE_MASK", "slide_id": "s"}

    async def of_job(**more: Any) -> tuple[str, str]:
        return await complaint(json={"name": "n", "jobs": [{**job, **more}]})

    field, detail = await complaint(content=b'{"name": ', headers=JSON)
    assert field == "body"
    assert "not JSON" in detail
    assert "character 9" in detail
    field, detail = await complaint(content=b'{"name": "n", "jobs": []}')
    assert field == "body"
    assert "Content-Type: application/json" in detail
    assert await complaint(json={"jobs": [job]}) == ("name", "this is required")
    assert await of_job(parameters={"tilesize": 512}) == ("jobs.0.parameters.tilesize", "there is no such field")
    field, detail = await of_job(key="a b")
    assert field == "jobs.0.key"
    assert "'a b'" in detail
    assert await of_job(parameters={"mpp": 1, "assume_mpp": 1}) == (
        "jobs.0.parameters",
        "give mpp (you know it) or assume_mpp (you assume it), not both",
    )
    missing = await gateway.assert_problem(await gateway.get("/jobs/nope"), 404, "not-found")
    assert missing["detail"] == "There is no job nope of yours."
