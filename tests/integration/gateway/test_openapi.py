"""The OpenAPI document is complete, its examples are valid, and one user meets nothing of another's."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from services.gateway.contract import operations
from services.gateway.openapi import document as rendered
from tests.integration.gateway.conftest import Running, registered
from tests.integration.gateway.json_schema import faults

Json = dict[str, Any]
BINARY = ("image/", "application/octet-stream", "application/offset+octet-stream", "application/zip", "multipart/")


@pytest.fixture(scope="module")
def document() -> Json:
    return dict(json.loads(rendered()))


def test_every_operation_has_a_name_a_tag_and_says_what_can_go_wrong(document: Json) -> None:
    assert document["openapi"].startswith("3.1")
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(ids)) == len(ids)
    known = {tag["name"] for tag in document["tags"]}
    for path, method, operation in operations(document):
        where = f"{method} {path}"
        assert operation["summary"], where
        assert set(operation["tags"]) <= known, where
        assert {"default", "503"} <= set(operation["responses"]), where
        if "_id}" in path:
            assert {"401", "404"} <= set(operation["responses"]), where


def test_every_example_is_there_and_valid(document: Json) -> None:
    checked = 0
    for path, method, operation in operations(document):
        contents = [
            *operation.get("requestBody", {}).get("content", {}).items(),
            *(each for answer in operation["responses"].values() for each in answer.get("content", {}).items()),
        ]
        for media_type, content in contents:
            where = f"{method} {path} {media_type}"
            if media_type.startswith(BINARY) or media_type == "application/problem+json":
                continue
            assert "example" in content, where
            if media_type.endswith("json"):
                assert list(faults(document, content["schema"], content["example"])) == [], where
                checked += 1
        for parameter in operation.get("parameters", ()):
            where = f"{method} {path} {parameter['name']}"
            assert "example" in parameter or "examples" in parameter.get("schema", {}), where
    for name, response in document["components"]["responses"].items():
        content = response["content"]["application/problem+json"]
        assert list(faults(document, content["schema"], content["example"])) == [], name
    assert checked > 30


async def test_nobody_meets_what_is_another_users(gateway: Running, document: Json) -> None:
    """Every operation that names something is tried by a stranger: nothing is found, nothing is changed."""
    slide = await registered(gateway, mpp=0.5)
    jobs = [{"key": "mask", "type": "TISSUE_MASK", "slide_id": slide, "draft": True}]
    workflow = (await gateway.post("/workflows", json={"name": "ada's", "jobs": jobs})).json()
    upload = await gateway.post("/uploads", headers={"Tus-Resumable": "1.0.0", "Upload-Length": "5"})
    ids = {
        "slide_id": slide,
        "workflow_id": workflow["id"],
        "job_id": workflow["jobs"][0]["id"],
        "upload_id": upload.headers["location"].rsplit("/", 1)[-1],
        "name": "summary.json",
        "level": "0",
        "column": "0",
        "row": "0",
    }
    before = await gateway.stored_events()
    body = {
        "workflows_add_jobs": {"jobs": jobs},
        "jobs_create": {"workflow_id": ids["workflow_id"], **jobs[0], "key": "more"},
    }
    tried = []
    for path, method, operation in operations(document):
        name = operation["operationId"]
        if "{" not in path and name != "jobs_create":
            continue
        more: Json = {"json": body[name]} if name in body else {}
        if method == "patch":
            more = {"content": b"12345", "headers": {"Upload-Offset": "0"}}
        headers = {
            "X-User-ID": "bob",
            "Tus-Resumable": "1.0.0",
            "Content-Type": "application/json" if name in body else "application/offset+octet-stream",
            **more.pop("headers", {}),
        }
        query = {"bbox": "0,0,9,9"} if "bbox" in {each["name"] for each in operation["parameters"]} else None
        response = await gateway.http.request(method, path.format(**ids), headers=headers, params=query, **more)
        assert response.status_code == 404, f"{name}: {response.status_code} {response.text}"
        if method != "head":
            await gateway.assert_problem(response, 404, "not-found")
        tried.append(name)
    assert len(tried) > 30
    for path in ("/slides", "/workflows", "/jobs", f"/jobs?workflow_id={ids['workflow_id']}"):
        assert (await gateway.get(path, user="bob")).json()["items"] == [], path
    assert (await gateway.get("/uploads", user="bob")).json() == []
    me = (await gateway.get("/users/me", user="bob")).json()
    assert (me["state"], me["usage"]["slides"], me["usage"]["workflows"]) == ("idle", 0, 0)
    assert await gateway.stored_events() == before
    # Ada's own are as they were, and what does not exist looks the same to her as hers to others.
    assert (await gateway.get(f"/workflows/{ids['workflow_id']}")).json()["jobs"][0]["status"] == "DRAFT"
    await gateway.assert_problem(await gateway.get(f"/jobs/{uuid.uuid4()}"), 404, "not-found")
