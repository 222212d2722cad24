"""Quota, digests, and deleting: what a user may store and how it goes away again."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import uuid
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from microtome.contracts.messages import SlideDeleted
from microtome.domain.commands import Cancel
from microtome.eventlog.log import Append, NewEvent
from tests.integration.gateway.conftest import Running, Start, content, picture, registered
from tests.integration.gateway.test_resumable import Client


def digest(data: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"


async def test_slides_and_open_uploads_share_one_quota(start_gateway: Start, tmp_path: Path) -> None:
    body = content(picture(tmp_path, "plain.png"))
    size = len(body)
    async with start_gateway(user_quota_bytes=3 * size) as gateway:
        client = Client(gateway)
        slide = await gateway.upload(tmp_path / "pictures" / "plain.png")
        url = await client.create(size)
        usage = await gateway.gateway.quota.usage("ada")
        assert (usage.stored_bytes, usage.reserved_bytes, usage.slides) == (size, size, 1)
        refused = await client.request("POST", "/api/v1/uploads", Upload_Length=str(size + 1))
        problem = await gateway.assert_problem(refused, 413, "quota-exceeded")
        assert (problem["used_bytes"], problem["limit_bytes"]) == (2 * size, 3 * size)
        assert problem["requested_bytes"] == size + 1
        # Neither announced nor of unknown length nor in parts does more come in.
        await gateway.assert_problem(await gateway.post("/slides", content=body + b"x"), 413, "quota-exceeded")

        async def unannounced() -> AsyncIterator[bytes]:
            yield body
            yield b"x"

        await gateway.assert_problem(await gateway.post("/slides", content=unannounced()), 413, "quota-exceeded")
        parted = await gateway.post("/slides", files={"file": ("a.png", body + b"x")})
        await gateway.assert_problem(parted, 413, "quota-exceeded")
        assert await client.create(size, Upload_Metadata="") != url
        assert (await client.request("POST", "/api/v1/uploads", Upload_Length="1")).status_code == 413
        # Others have their own room, and an upload that became a slide counts once.
        assert (await gateway.get("/slides", user="bob")).status_code == 200
        assert await Client(gateway, "bob").create(3 * size)
        assert (await client.patch(url, 0, body)).status_code == 204
        assert (await gateway.gateway.quota.usage("ada")).used_bytes == 3 * size
        # What is deleted makes room.
        path = f"/api/v1/slides/{slide['id']}"
        assert (await gateway.http.delete(path, headers=gateway.as_user("ada"))).status_code == 204
        assert await client.create(size)


async def test_two_gateways_never_promise_the_same_room(start_gateway: Start) -> None:
    async with start_gateway(user_quota_bytes=1000) as one, start_gateway(user_quota_bytes=1000) as two:
        answers = await asyncio.gather(
            *(
                Client(gateway).request("POST", "/api/v1/uploads", Upload_Length="100")
                for gateway in (one, two)
                for _ in range(10)
            )
        )
        assert sorted(answer.status_code for answer in answers) == [201] * 10 + [413] * 10
        assert (await one.gateway.quota.usage("ada")).reserved_bytes == 1000


def triangle(edge: int) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": [[[1, 1], [edge, 1], [edge, edge], [1, 1]]]}


async def test_what_is_drawn_on_a_slide_counts_until_it_is_deleted(start_gateway: Start, tmp_path: Path) -> None:
    body = content(picture(tmp_path, "plain.png"))
    size = len(body)

    def draws(slide: dict[str, Any], key: str, edge: int) -> dict[str, Any]:
        return {"key": key, "type": "TISSUE_MASK", "slide_id": slide["id"], "parameters": {"tissue": triangle(edge)}}

    async with start_gateway(user_quota_bytes=size + 200) as gateway:
        slide = await gateway.upload(tmp_path / "pictures" / "plain.png")
        # The same drawing takes its room once: in one workflow, and again in the next.
        first = await gateway.submit(draws(slide, "a", 9), draws(slide, "b", 9))
        assert first.status_code == 202, first.text
        drawn = (await gateway.gateway.quota.usage("ada")).drawn_bytes
        assert 200 / 3 < drawn < 100
        assert (await gateway.submit(draws(slide, "a", 9))).status_code == 202
        assert (await gateway.submit(draws(slide, "a", 8))).status_code == 202
        me = (await gateway.get("/users/me")).json()
        assert me["usage"]["drawn_bytes"] == 2 * drawn
        problem = await gateway.assert_problem(await gateway.submit(draws(slide, "a", 7)), 413, "quota-exceeded")
        assert (problem["used_bytes"], problem["requested_bytes"]) == (size + 2 * drawn, drawn)
        assert len((await gateway.get("/workflows")).json()["items"]) == 3
        # A job without one needs no room, and an upload has only what is left.
        assert (await gateway.submit({**draws(slide, "a", 9), "parameters": {}})).status_code == 202
        upload = await Client(gateway).request("POST", "/api/v1/uploads", Upload_Length="200")
        assert (await gateway.assert_problem(upload, 413, "quota-exceeded"))["used_bytes"] == size + 2 * drawn
        for workflow in (await gateway.get("/workflows")).json()["items"]:
            await gateway.post(f"/workflows/{workflow['id']}/cancel")
        path = f"/api/v1/slides/{slide['id']}"
        assert (await gateway.http.delete(path, headers=gateway.as_user("ada"))).status_code == 204
        assert (await gateway.gateway.quota.usage("ada")).used_bytes == 0


async def test_two_gateways_never_keep_more_drawings_than_there_is_room_for(
    start_gateway: Start, tmp_path: Path
) -> None:
    size = len(content(picture(tmp_path, "plain.png")))
    limit = size + 500
    async with start_gateway(user_quota_bytes=limit) as one, start_gateway(user_quota_bytes=limit) as two:
        slide = await one.upload(tmp_path / "pictures" / "plain.png")
        jobs = [
            {"key": "a", "type": "TISSUE_MASK", "slide_id": slide["id"], "parameters": {"tissue": triangle(edge)}}
            for edge in range(10, 26)
        ]
        answers = await asyncio.gather(*((one, two)[k % 2].submit(job) for k, job in enumerate(jobs)))
        taken = [answer.status_code for answer in answers]
        usage = await one.gateway.quota.usage("ada")
        assert set(taken) == {202, 413}
        assert 400 < usage.drawn_bytes <= 500
        # Whoever was refused wrote nothing: every file has its room.
        files = list(one.data_dir.glob("slides/*/.tissue/*.geojson"))
        assert len(files) == taken.count(202)
        assert sum(path.stat().st_size for path in files) == usage.drawn_bytes


async def test_a_file_that_arrived_damaged_is_not_kept(gateway: Running, tmp_path: Path) -> None:
    body = content(picture(tmp_path, "plain.png"))
    right = hashlib.sha256(body).hexdigest()
    wrong = hashlib.sha256(body[:-1]).hexdigest()
    post = gateway.post
    for refused in (
        await post("/slides", content=body, params={"sha256": wrong}),
        await post("/slides", content=body, headers={"Content-Digest": digest(body[:-1])}),
        await post("/slides", files={"file": ("a.png", body)}, params={"sha256": wrong}),
    ):
        await gateway.assert_problem(refused, 422, "checksum-mismatch")
    for unclear in (
        await post("/slides", content=body, params={"sha256": "abc"}),
        await post("/slides", content=body, headers={"Repr-Digest": "sha-512=:AAAA:"}),
        await post("/slides", content=body, headers={"Repr-Digest": digest(body)}, params={"sha256": wrong}),
        await post("/slides", files={"file": ("a.png", body)}, headers={"Repr-Digest": digest(body)}),
    ):
        await gateway.assert_problem(unclear, 422, "invalid-request")
    assert await gateway.stored_events() == 0
    assert gateway.stored_files() == []
    headers = {"Content-Digest": digest(body), "Repr-Digest": digest(body)}
    assert (await post("/slides", content=body, headers=headers, params={"sha256": right.upper()})).status_code == 201


async def test_slides_come_in_pages_and_by_name(gateway: Running, tmp_path: Path) -> None:
    plain = content(picture(tmp_path, "plain.png"))
    ids = [
        (await gateway.post("/slides", content=plain, params={"filename": name})).json()["id"]
        for name in ("One_a.png", "Two.png", "Three.png")
    ]
    first = await gateway.get("/slides?limit=2")
    assert [slide["id"] for slide in first.json()["items"]] == [ids[2], ids[1]]
    following = first.headers["link"].removeprefix("<").partition(">")[0]
    assert first.headers["link"].endswith('rel="next"')
    rest = await gateway.http.get(following, headers=gateway.as_user("ada"))
    assert [slide["id"] for slide in rest.json()["items"]] == [ids[0]]
    assert rest.json()["next_cursor"] is None
    assert [slide["id"] for slide in (await gateway.get("/slides?name=e_A")).json()["items"]] == [ids[0]]
    assert (await gateway.get("/slides?name=%25")).json()["items"] == []
    one = await gateway.get(f"/slides/{ids[0]}")
    again = await gateway.get(f"/slides/{ids[0]}", headers={"If-None-Match": one.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    small = await gateway.get(f"/slides/{ids[0]}/thumbnail?size=64")
    assert Image.open(BytesIO(small.content)).size == (64, 48)
    for size in (15, 4097, "big"):
        await gateway.assert_problem(
            await gateway.get(f"/slides/{ids[0]}/thumbnail?size={size}"), 422, "invalid-request"
        )


async def test_pictures_beside_the_slide(gateway: Running, small_slide: Path, tmp_path: Path) -> None:
    slide = await gateway.upload(small_slide)
    listed = (await gateway.get(f"/slides/{slide['id']}/associated")).json()
    assert [(each["name"], each["width"], each["height"]) for each in listed] == [
        ("label", 387, 463),
        ("macro", 1280, 431),
        ("thumbnail", 574, 768),
    ]
    for form in ("jpeg", "png"):
        shown = await gateway.http.get(f"{listed[0]['url']}?format={form}&user=ada")
        assert shown.headers["content-type"] == f"image/{form}"
        assert Image.open(BytesIO(shown.content)).size == (387, 463)
        known = {"If-None-Match": shown.headers["etag"]}
        assert (await gateway.http.get(f"{listed[0]['url']}?format={form}&user=ada", headers=known)).status_code == 304
    for name in ("none", "..%2flabel", "a%00b"):
        await gateway.assert_problem(await gateway.get(f"/slides/{slide['id']}/associated/{name}"), 404, "not-found")
    await gateway.assert_problem(
        await gateway.get(f"/slides/{slide['id']}/associated/label", user="bob"), 404, "not-found"
    )
    plain = await gateway.upload(picture(tmp_path, "plain.png"))
    assert (await gateway.get(f"/slides/{plain['id']}/associated")).json() == []


async def test_a_slide_is_deleted_when_nobody_needs_it(gateway: Running, tmp_path: Path) -> None:
    slide = await gateway.upload(picture(tmp_path, "plain.png"))
    path = f"/api/v1/slides/{slide['id']}"
    submitted = await gateway.submit({"key": "mask", "type": "TISSUE_MASK", "slide_id": slide["id"]})
    job = submitted.json()["jobs"][0]
    stranger = await gateway.http.delete(path, headers=gateway.as_user("bob"))
    await gateway.assert_problem(stranger, 404, "not-found")
    refused = await gateway.http.delete(path, headers=gateway.as_user("ada"))
    problem = await gateway.assert_problem(refused, 409, "slide-in-use")
    assert problem["jobs"] == [job["id"]]
    assert "'mask'" in problem["detail"]
    await gateway.gateway.workflows.execute(submitted.json()["id"], Cancel(job["id"]))
    assert (await gateway.http.delete(path, headers=gateway.as_user("ada"))).status_code == 204
    assert gateway.stored_files() == []
    for gone in ("", "/thumbnail", "/associated", "/dzi.dzi"):
        await gateway.assert_problem(await gateway.get(f"/slides/{slide['id']}{gone}"), 404, "not-found")
    assert (await gateway.http.delete(path, headers=gateway.as_user("ada"))).status_code == 404
    assert (await gateway.get("/slides")).json()["items"] == []
    # What was done on it stays, but nothing new is.
    assert (await gateway.get(f"/jobs/{job['id']}")).json()["slide_id"] == slide["id"]
    again = await gateway.submit({"key": "mask", "type": "TISSUE_MASK", "slide_id": slide["id"]})
    await gateway.assert_problem(again, 422, "invalid-workflow")


async def test_a_delete_that_was_cut_short_is_finished(start_gateway: Start) -> None:
    async with start_gateway() as gateway:
        slide_id = await registered(gateway, mpp=0.5)
        folder = gateway.data_dir / "slides" / slide_id
        folder.mkdir()
        (folder / "slide.svs").write_bytes(b"pixels")
        event = NewEvent(event_id=uuid.uuid4(), message=SlideDeleted(slide_id=slide_id), tenant="ada")
        await gateway.gateway.log.append(Append(f"slide-{slide_id}", 1, (event,)))
        assert folder.exists()
    async with start_gateway() as gateway, asyncio.timeout(10):
        while os.path.exists(folder):  # noqa: PTH110 - a test
            await asyncio.sleep(0.02)


async def test_an_upload_that_came_whole_is_finished_by_the_next_gateway(start_gateway: Start, tmp_path: Path) -> None:
    body = content(picture(tmp_path, "plain.png"))
    async with start_gateway() as gateway:
        url = await Client(gateway).create(len(body) + 1)
        await Client(gateway).patch(url, 0, body)
        upload_id = url.rpartition("/")[2]
        # As if the last byte had been stored in the moment of a kill.
        async with gateway.gateway.database.connection() as connection:
            await connection.execute("update uploads set size_bytes = $1", len(body))
        # And an earlier try had come as far as the rename.
        (gateway.data_dir / "slides" / upload_id).mkdir()
        (gateway.data_dir / "slides" / upload_id / ".unrecorded").touch()
        head = await Client(gateway).request("HEAD", url)
        assert head.headers["microtome-upload-state"] == "processing"
    async with start_gateway() as gateway:
        shown = await gateway.until(f"/uploads/{upload_id}", lambda upload: upload["state"] == "registered")
        assert shown.json()["slide_id"] == upload_id
        assert content(gateway.data_dir / "slides" / upload_id / "slide") == body
        await gateway.gateway.completion.sweep()
        assert await gateway.stored_events() == 1
