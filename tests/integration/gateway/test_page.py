"""The page, the documents about the API, health."""

from __future__ import annotations

from pathlib import Path

import orjson

from services.gateway.openapi import document
from services.gateway.settings import GatewaySettings
from services.gateway.wiring import create_app
from tests.integration.gateway.conftest import Running, Start


async def test_the_page_and_its_assets(start_gateway: Start, tmp_path: Path) -> None:
    ui = tmp_path / "ui"
    (ui / "assets").mkdir(parents=True)
    (ui / "index.html").write_text("<!doctype html>the page")
    (ui / "assets" / "index-DiwrgTda.js").write_text("1")
    (tmp_path / "secret.txt").write_text("secret")
    async with start_gateway() as gateway:
        page = await gateway.http.get("/")
        assert "the page" in page.text
        assert page.headers["cache-control"] == "no-cache"
        assert page.headers["content-security-policy"].startswith(
            "default-src 'none'; script-src 'self'; style-src 'self';"
        )
        assert page.headers["x-content-type-options"] == "nosniff"
        assert "the page" in (await gateway.http.get("/slides/17")).text
        asset = await gateway.http.get("/assets/index-DiwrgTda.js")
        assert "immutable" in asset.headers["cache-control"]
        assert asset.headers["content-type"].startswith("text/javascript")
        for path in (
            "/assets/none.js",
            "/..%2fsecret.txt",
            "/%2e%2e/secret.txt",
            "/api/v1/none",
            "/api/none",
            "/a%00b.js",
        ):
            await gateway.assert_problem(await gateway.http.get(path), 404, "not-found")
        await gateway.assert_problem(await gateway.http.delete("/api/v1/slides"), 405, "method-not-allowed")


async def test_what_works_without_a_page_and_without_a_network(gateway: Running) -> None:
    assert "make ui" in (await gateway.http.get("/")).text
    assert (await gateway.http.get("/api/v1/health")).json() == {"status": "ok"}
    for path, name in (("/docs", "swagger-ui-bundle.js"), ("/redoc", "redoc.standalone.js")):
        page = await gateway.http.get(path)
        assert "http" not in page.text
        for compressed in ("gzip", "identity"):
            script = await gateway.http.get(f"{path}/{name}", headers={"Accept-Encoding": compressed})
            assert script.status_code == 200
            assert len(script.content) > 1_000_000
    assert (await gateway.http.get("/openapi.json")).json()["info"]["title"] == "Microtome"
    status = (await gateway.http.get("/api/v1/status")).json()
    states = {service["name"]: service["state"] for service in status["services"]}
    assert [states.pop(name) for name in ("postgres", "nats", "log")] == ["ok", "ok", "ok"]
    # No worker runs here.
    assert set(states) == {"scheduler", "tiler", "inference", "merger"}
    assert "ok" not in states.values()
    assert status["limits"]["max_active_users"] == 3


async def test_no_answer_of_postgres_is_said(gateway: Running) -> None:
    await gateway.gateway.database.close()
    problem = await gateway.assert_problem(await gateway.http.get("/api/v1/health"), 503, "unavailable")
    assert problem["transient"]
    status = await gateway.http.get("/api/v1/status")
    assert status.status_code == 200
    assert status.json()["services"][0]["state"] == "unreachable"


async def test_unforeseen_errors_show_nothing(gateway: Running, caplog: object) -> None:
    # A table that is gone is what nobody foresees.
    async with gateway.gateway.database.connection() as connection:
        await connection.execute("drop table slides cascade")
    problem = await gateway.assert_problem(await gateway.get("/slides"), 500, "internal")
    assert "slides" not in problem["detail"]
    assert "incident" in problem["detail"]


def test_the_openapi_snapshot_is_current() -> None:
    snapshot = Path(__file__).resolve().parents[3] / "proto" / "openapi.json"
    assert snapshot.read_text() == document(), "run: python -m services.gateway.openapi > proto/openapi.json"


def test_the_openapi_describednames_its_schemas(tmp_path: Path) -> None:
    app = create_app(GatewaySettings(microtome_database_url="p", microtome_nats_url="n", microtome_data_dir=tmp_path))
    schemas = set(app.openapi()["components"]["schemas"])
    assert schemas >= {"Slide", "Workflow", "Job", "JobResult", "Artifact", "Problem", "WaitingFor", "Status", "Cells"}
    assert "HTTPValidationError" not in schemas


def test_every_route_says_what_it_answers() -> None:
    described = orjson.loads(document())
    for path, methods in described["paths"].items():
        for method, route in methods.items():
            assert route["summary"], (method, path)
            responses = route["responses"]
            good = next(answer for status, answer in responses.items() if status.startswith("2"))
            assert all(kind["schema"] for kind in good.get("content", {}).values()), (method, path)
            # Only tus, and what deletes, answers without a body.
            assert "content" in good or method == "delete" or "/uploads" in path, (method, path)
            problem = responses["default"]["content"]["application/problem+json"]
            assert problem["schema"]["$ref"].endswith("/Problem"), (method, path)
