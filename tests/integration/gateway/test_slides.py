"""Slides through the real gateway: stored whole or not at all."""

from __future__ import annotations

import hashlib
from io import BytesIO
from pathlib import Path

from PIL import Image

from tests.integration.gateway.conftest import Running


async def test_a_real_slide_is_stored_and_shown(gateway: Running, small_slide: Path) -> None:
    slide = await gateway.upload(small_slide)
    assert slide["sha256"] == hashlib.sha256(small_slide.read_bytes()).hexdigest()
    assert (slide["width"], slide["height"]) == (2220, 2967)
    assert slide["mpp_source"] == "vendor"
    assert abs(slide["mpp"] - 0.499) < 1e-9
    assert (await gateway.get(f"/slides/{slide['id']}")).json() == slide
    assert (await gateway.get("/slides")).json() == [slide]

    picture = await gateway.get(f"/slides/{slide['id']}/thumbnail")
    assert picture.headers["content-type"] == "image/jpeg"
    assert max(Image.open(BytesIO(picture.content)).size) == 1024
    again = await gateway.get(f"/slides/{slide['id']}/thumbnail", headers={"If-None-Match": picture.headers["etag"]})
    assert again.status_code == 304

    descriptor = await gateway.get(f"/slides/{slide['id']}/dzi.dzi")
    assert 'Width="2220"' in descriptor.text
    tile = await gateway.get(f"/slides/{slide['id']}/dzi_files/12/0_0.jpeg")
    assert Image.open(BytesIO(tile.content)).size == (255, 255)
    assert "private" in tile.headers["cache-control"]
    linked = await gateway.http.get(f"/api/v1/slides/{slide['id']}/dzi_files/12/1_0.jpeg?user=ada")
    assert linked.status_code == 200
    assert linked.content != tile.content
    for address in ("12/99_0", "99/0_0", "12/-1_0"):
        await gateway.assert_problem(
            await gateway.get(f"/slides/{slide['id']}/dzi_files/{address}.jpeg"), 404, "not-found"
        )
