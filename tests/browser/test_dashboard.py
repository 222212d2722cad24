"""The page as its user meets it: real browser, real gateway, real services, real cells."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image
from playwright.async_api import Page, expect

from microtome.client import ApiClient
from microtome.embedded.supervisor import EmbeddedStack
from microtome.slides.synthetic import paint, write_synthetic_slide
from tests.browser.conftest import Visit
from tests.conftest import SLIDES, ServerThread

Api = Callable[[str], ApiClient]

pytestmark = pytest.mark.timeout(180)

# Slow enough to be seen: 2 MB take two seconds.
UPLOAD_BYTES_PER_SECOND = 1_000_000

DROP = """([name, content]) => {
  const bytes = Uint8Array.from(atob(content), (each) => each.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name));
  return transfer;
}"""
# How many pixels of the overlay are not clear.
PAINTED = """canvas => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let painted = 0;
  for (let alpha = 3; alpha < data.length; alpha += 4) painted += data[alpha] > 0;
  return painted;
}"""
# Of these places in CSS pixels, how many have paint within two pixels.
HIT = """(canvas, places) => {
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const ratio = canvas.width / canvas.clientWidth;
  return places.filter(([x, y]) => {
    const { data } = context.getImageData(Math.round(x * ratio) - 2, Math.round(y * ratio) - 2, 5, 5);
    return data.some((value, index) => index % 4 === 3 && value > 0);
  }).length;
}"""


@pytest.fixture(scope="module")
def slide_to_drop(synthetic: Path) -> Path:
    """The real slide where it is, else a synthetic one: the page must do with both."""
    real = SLIDES / "CMU-1-Small-Region.svs"
    return real if real.exists() else synthetic


async def drop(page: Page, file: Path) -> None:
    """Drop a file on the page as a file manager would, over a slow line."""
    session = await page.context.new_cdp_session(page)
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": UPLOAD_BYTES_PER_SECOND}
    await session.send("Network.emulateNetworkConditions", slow)
    content = base64.b64encode(file.read_bytes()).decode()
    transfer = await page.evaluate_handle(DROP, [file.name, content])
    await page.dispatch_event(".drop", "drop", {"dataTransfer": transfer})
    await page.locator("[data-testid=upload][data-phase=reading], [data-testid=slide-card]").first.wait_for()
    await session.send("Network.emulateNetworkConditions", {**slow, "uploadThroughput": -1})


async def test_from_a_dropped_slide_to_every_cell_on_it(visit: Visit, api: Api, slide_to_drop: Path) -> None:
    page, name = visit.page, slide_to_drop.name
    await page.goto(visit.url)
    await page.get_by_test_id("quick-user-alice").click()
    await expect(page.get_by_text("No slides yet")).to_be_visible(timeout=5_000)
    await drop(page, slide_to_drop)
    await page.locator(f"[data-testid=slide-card][data-filename='{name}']").click()
    sent = [int(percent) for percent in await visit.seen(f"Upload of {name}")]
    assert sent == sorted(sent)
    assert any(0 < percent < 100 for percent in sent)
    assert (await visit.seen("upload"))[-1] == "reading"

    await page.get_by_test_id("start-cells").click()
    await page.locator("[data-key=cells][data-status=RUNNING]").wait_for(timeout=60_000)
    await visit.finished("cells")
    for key in ("tissue", "cells"):
        shown = await visit.seen(key)
        assert shown == ["PENDING", "RUNNING", "SUCCEEDED"][-len(shown) :]
        assert "RUNNING" in shown or key == "tissue"
    bar = [int(percent) for percent in await visit.seen("Progress of cells")]
    assert bar == sorted(bar)
    assert bar[-1] == 100
    assert any(0 < percent < 100 for percent in bar)
    # It moved by what the websocket said: the workflow itself was asked for once.
    workflow_id = await visit.workflow()
    kinds = [json.loads(frame)["kind"] for frame in visit.frames]
    assert kinds[0] == "snapshot"
    assert {"event", "progress"} <= set(kinds)
    assert visit.requests.count(f"GET /api/v1/workflows/{workflow_id}") == 1

    client = api("alice")
    workflow = await client.workflow(workflow_id)
    await shows_the_result(page, workflow["jobs"][1])
    await layers_can_be_switched(page)
    await visit.picture("whole")
    await outlines_lie_on_their_cells(visit, client, workflow)
    await visit.picture("zoomed")


async def shows_the_result(page: Page, job: Any) -> None:
    result = job["result"]
    assert result["cells"] > 50
    await expect(page.get_by_test_id("cell-count")).to_have_text(f"{result['cells']:,}")
    density = float((await page.get_by_test_id("density").inner_text()).replace(",", ""))
    assert density == pytest.approx(result["cells_per_mm2"], rel=0.005)
    area = float(await page.get_by_test_id("tissue-area").inner_text())
    assert area == pytest.approx(result["tissue_mm2"], rel=0.005)
    await expect(page.get_by_test_id("overlay")).to_have_attribute("data-outlines", str(result["cells"]))


async def layers_can_be_switched(page: Page) -> None:
    overlay = page.get_by_test_id("overlay")

    async def painted() -> int:
        return int(await overlay.evaluate(PAINTED))

    await expect(page.get_by_test_id("toggle-cells")).to_have_attribute("aria-pressed", "true")
    cells = await painted()
    assert cells > 500
    await page.keyboard.press("c")
    await expect(overlay).to_have_attribute("data-outlines", "0")
    assert await painted() == 0
    await page.get_by_test_id("toggle-tissue").click()
    await expect(overlay).to_have_attribute("data-tissue", "true")
    tissue = await painted()
    assert tissue > cells
    await page.get_by_test_id("toggle-tissue").click()
    await expect(overlay).to_have_attribute("data-tissue", "false")
    assert await painted() == 0
    await page.get_by_test_id("toggle-cells").click()
    await expect(overlay).not_to_have_attribute("data-outlines", "0")
    assert await painted() == cells


async def outlines_lie_on_their_cells(visit: Visit, client: ApiClient, workflow: Any) -> None:
    """Zoomed to one cell, the overlay is painted where the API says that its outline is."""
    job, slide = workflow["jobs"][1], await client.slide(workflow["jobs"][1]["slide_id"])
    x, y = slide["width"] / 2, slide["height"] / 2
    found = await client.cells(job["id"], (x - 300, y - 300, x + 300, y + 300))
    outline = min(found["outlines"], key=lambda flat: abs(flat[0] - x) + abs(flat[1] - y))
    corners = list(zip(outline[::2], outline[1::2], strict=True))
    x = round(sum(corner[0] for corner in corners) / len(corners))
    y = round(sum(corner[1] for corner in corners) / len(corners))
    await visit.page.goto(f"{visit.url}/#/workflows/{workflow['id']}?job={job['id']}&at={x},{y},200")
    overlay = visit.page.get_by_test_id("overlay")
    box = await overlay.bounding_box()
    assert box is not None
    scale = box["width"] / 200
    places = [(box["width"] / 2 + (a - x) * scale, box["height"] / 2 + (b - y) * scale) for a, b in corners]

    async def hits(shift: float) -> int:
        return int(await overlay.evaluate(HIT, [(a + shift, b + shift) for a, b in places]))

    for _ in range(50):
        if await hits(0) == len(places):
            break
        await asyncio.sleep(0.1)
    assert await hits(0) == len(places)
    assert await hits(12) < len(places)


async def test_what_is_no_image_is_refused_with_a_reason_and_advice(visit: Visit, tmp_path: Path) -> None:
    visit.expected.append("status of 422")
    text = tmp_path / "notes.svs"
    text.write_text("This is no slide.\n" * 100)
    await visit.enter("dora")
    await visit.page.get_by_test_id("upload-input").set_input_files(text)
    panel = visit.page.get_by_test_id("error-panel")
    await expect(panel).to_have_attribute("data-code", "unreadable-slide")
    await expect(panel).to_contain_text("notes.svs")
    await expect(panel.locator(".advice")).to_contain_text("Export the slide again")
    await visit.picture("refused")
    await panel.get_by_role("button", name="Dismiss").click()
    await expect(panel).to_have_count(0)
    await expect(visit.page.get_by_test_id("slide-card")).to_have_count(0)


async def test_a_slide_that_hides_its_pixel_size_is_asked_about(visit: Visit, api: Api, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    Image.fromarray(paint(512, 11)[0]).save(picture)
    page = visit.page
    await visit.enter("erin")
    await visit.choose(picture)
    await expect(page.get_by_test_id("mpp-question")).to_be_visible()
    start = page.get_by_test_id("start-cells")
    await expect(start).to_be_disabled()
    await expect(page.get_by_test_id("scale-bar")).to_contain_text("px")
    await page.get_by_test_id("mpp-input").fill("0")
    await expect(page.get_by_text("A number between 0.05 and 10.")).to_be_visible()
    await expect(start).to_be_disabled()
    await visit.picture("pixel-size")
    await page.get_by_test_id("mpp-input").fill("0,5")
    await start.click()
    await visit.finished("cells")
    await expect(page.get_by_test_id("result-mpp")).to_have_text("0.500 µm/px, given by you")
    await expect(page.get_by_test_id("scale-bar")).to_contain_text("µm")
    jobs = (await api("erin").workflow(await visit.workflow()))["jobs"]
    assert [job["parameters"]["mpp"] for job in jobs] == [0.5, 0.5]


async def test_a_user_draws_where_the_tissue_is(visit: Visit, api: Api, tmp_path: Path) -> None:
    slide = tmp_path / "drawn.tif"
    write_synthetic_slide(slide, size=1024, seed=23)
    page = visit.page
    await visit.enter("dora")
    await visit.choose(slide)
    await page.get_by_test_id("start-tissue").click()
    await visit.finished("tissue")
    await expect(page.get_by_test_id("overlay")).to_have_attribute("data-tissue", "true", timeout=30_000)
    found = (await api("dora").workflow(await visit.workflow()))["jobs"][0]["result"]
    assert found is not None
    before = await visit.workflow()
    await page.get_by_test_id("edit-tissue").click()
    box = await page.get_by_test_id("overlay").bounding_box()
    assert box is not None
    # Everything to the right of the middle goes.
    middle, left, top = box["x"] + box["width"] / 2, box["x"] + box["width"] - 6, box["y"] + 6
    await page.get_by_test_id("tissue-remove").click()
    await page.mouse.move(middle, top)
    await page.mouse.down()
    for x, y in ((left, top), (left, box["y"] + box["height"] - 6), (middle, box["y"] + box["height"] - 6)):
        await page.mouse.move(x, y, steps=4)
    await page.mouse.up()
    await visit.picture("tissue-edited")
    await expect(page.get_by_test_id("tissue-remove")).to_have_attribute("aria-pressed", "true")
    overlay, painted = page.get_by_test_id("overlay"), await page.get_by_test_id("overlay").evaluate(PAINTED)
    await page.get_by_test_id("tissue-use").click()
    await expect(page.get_by_test_id("drawn-tissue")).to_be_in_viewport()
    # What was drawn stays to be seen until the run, and who edits again goes on with it.
    await expect(overlay).to_have_attribute("data-drawn", "true")
    assert await overlay.evaluate(PAINTED) == painted
    await expect(page.get_by_test_id("edit-tissue")).to_be_focused()
    await page.get_by_test_id("edit-tissue").click()
    await expect(page.get_by_test_id("tissue-add")).to_be_focused()
    assert await overlay.evaluate(PAINTED) == painted
    await page.get_by_test_id("tissue-cancel").click()
    await page.get_by_test_id("start-cells").click()
    await expect(page.get_by_test_id("workflow")).not_to_have_attribute("data-workflow-id", before)
    await visit.finished("cells")
    workflow = await api("dora").workflow(await visit.workflow())
    job = workflow["jobs"][1]
    assert job["parameters"]["tissue"] is not None
    assert job["result"] is not None
    assert found["tissue_mm2"] * 0.3 < job["result"]["tissue_mm2"] < found["tissue_mm2"] * 0.7
    parquet = await api("dora").download(job["id"], "cells.parquet", tmp_path / "cells.parquet")
    seeds = pq.read_table(parquet, columns=["seed_x"])["seed_x"].to_pylist()
    assert len(seeds) > 20
    assert max(seeds) < 1024 * 0.55
    await expect(page.get_by_test_id("drawn-tissue")).to_have_count(0)
    await shows_the_result(page, job)


async def test_the_page_outlives_the_gateway(
    visit: Visit, api: Api, running: tuple[EmbeddedStack, ServerThread], tmp_path: Path
) -> None:
    visit.expected += ["ERR_CONNECTION", "ERR_EMPTY_RESPONSE", "ERR_INCOMPLETE", "WebSocket connection to"]
    visit.expected.append("status of 503")
    stack, thread = running
    slide = tmp_path / "large.tif"
    write_synthetic_slide(slide, size=2048, seed=17)
    page = visit.page
    await visit.enter("frida")
    await visit.choose(slide)
    await page.get_by_test_id("start-cells").click()
    await page.locator("[data-key=cells][data-status=RUNNING]").wait_for(timeout=60_000)
    connection = page.get_by_test_id("connection")
    await expect(connection).to_have_attribute("data-state", "live")
    killing = asyncio.create_task(asyncio.to_thread(thread.run, stack.kill("gateway")))
    await expect(connection).to_have_attribute("data-state", "retrying")
    await visit.picture("gateway-gone")
    await killing
    await expect(connection).to_have_attribute("data-state", "live", timeout=60_000)
    await visit.finished("cells")
    await expect(page.get_by_test_id("workflow")).to_have_attribute("data-status", "SUCCEEDED")
    workflow = await api("frida").workflow(await visit.workflow())
    await shows_the_result(page, workflow["jobs"][1])
    assert [job["attempt"] for job in workflow["jobs"]] == [1, 1]
    await expect(page.get_by_test_id("error-panel")).to_have_count(0, timeout=15_000)
    await slide_is_drawn(page)


async def slide_is_drawn(page: Page) -> None:
    """Below the outlines there is a picture: what failed to load was asked for again."""
    await page.keyboard.press("c")
    for _ in range(150):
        # OpenSeadragon draws tissue in colour over the page's grey.
        shot = await page.get_by_test_id("viewer").screenshot()
        with Image.open(io.BytesIO(shot)) as picture:
            saturation = picture.convert("HSV").resize((64, 64)).getchannel("S").tobytes()
        if sum(value > 60 for value in saturation) > 800:
            return
        await asyncio.sleep(0.1)
    pytest.fail("the slide stayed blank")


async def test_what_belongs_to_one_user_is_not_there_for_another(visit: Visit, api: Api, synthetic: Path) -> None:
    visit.expected.append("status of 404")
    slide = await api("grete").upload_slide(synthetic)
    page = visit.page
    await visit.enter("grete")
    card = page.get_by_test_id("slide-card")
    await expect(card).to_have_attribute("data-slide-id", slide["id"])
    await page.get_by_test_id("user-menu").click()
    await page.get_by_test_id("quick-user-bob").click()
    await expect(page.get_by_text("No slides yet")).to_be_visible(timeout=5_000)
    await expect(card).to_have_count(0)
    await page.goto(f"{visit.url}/#/slides/{slide['id']}")
    panel = page.get_by_test_id("error-panel")
    await expect(panel).to_have_attribute("data-code", "not-found")
    await expect(panel).to_contain_text("What another user owns is not visible to you")
    await expect(page.get_by_test_id("viewer")).to_have_count(0)


@pytest.mark.parametrize("path", ["docs", "redoc"])
async def test_the_documents_about_the_api_need_no_other_host(visit: Visit, path: str) -> None:
    await visit.page.goto(f"{visit.url}/{path}")
    await expect(visit.page.get_by_text("/jobs/{job_id}/cancel").first).to_be_attached(timeout=30_000)
    await visit.picture(path)
