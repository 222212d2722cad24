"""Official models are fetched over https, within bounds; where that cannot be, one is told what to do."""

from __future__ import annotations

import hashlib
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from microtome.models import official
from microtome.models.official import OFFICIAL, fetch
from microtome.models.refusals import ImportNeedsMore, ModelRefused

CONTENT = bytes(range(256)) * 1000


class _Release(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        match self.path:
            case "/model.zip":
                self.send_response(200)
                self.send_header("Content-Length", str(len(CONTENT)))
                self.end_headers()
                self.wfile.write(CONTENT)
            case "/missing.zip":
                self.send_error(404)
            case _:
                self.send_response(302)
                where = {"/moved.zip": "/model.zip", "/circle.zip": "/circle.zip", "/plain.zip": "http://127.0.0.1:9/x"}
                self.send_header("Location", where[self.path])
                self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed; it makes the certificate of the server that this test fetches from")
    folder = tmp_path_factory.mktemp("certificate")
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-keyout", "both.pem", "-out", "cert.pem", "-days", "2", "-subj", "/CN=127.0.0.1",
            "-addext", "subjectAltName=IP:127.0.0.1",
        ],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    with (folder / "both.pem").open("ab") as file:
        file.write((folder / "cert.pem").read_bytes())
    return folder


@pytest.fixture
def server(certificate: Path) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "both.pem")
    release = ThreadingHTTPServer(("127.0.0.1", 0), _Release)
    release.socket = context.wrap_socket(release.socket, server_side=True)
    thread = threading.Thread(target=release.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"https://127.0.0.1:{release.server_port}"
    release.shutdown()
    thread.join()
    release.server_close()


@pytest.fixture
def client(certificate: Path) -> Iterator[httpx.Client]:
    with httpx.Client(verify=ssl.create_default_context(cafile=str(certificate / "cert.pem"))) as opened:
        yield opened


@pytest.mark.parametrize("name", ["model", "moved"])
def test_it_comes_with_its_digest(tmp_path: Path, server: str, client: httpx.Client, name: str) -> None:
    path, digest = fetch(f"{server}/{name}.zip", "mine", tmp_path, client)
    assert path == tmp_path / "mine.zip"
    assert path.read_bytes() == CONTENT
    assert digest == hashlib.sha256(CONTENT).hexdigest()


def test_another_file_than_was_expected_is_refused_and_not_kept(
    tmp_path: Path, server: str, client: httpx.Client
) -> None:
    expected = hashlib.sha256(CONTENT).hexdigest()
    path, _ = fetch(f"{server}/moved.zip", "mine", tmp_path, client, sha256=expected)
    assert path.read_bytes() == CONTENT
    with pytest.raises(ModelRefused, match=expected):
        fetch(f"{server}/model.zip", "mine", tmp_path, client, sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "why"), [("plain", "not https"), ("circle", "redirects more than")])
def test_ways_that_lead_astray_are_refused(
    tmp_path: Path, server: str, client: httpx.Client, name: str, why: str
) -> None:
    with pytest.raises(ModelRefused, match=why):
        fetch(f"{server}/{name}.zip", "mine", tmp_path, client)


def test_more_than_the_bound_is_refused(
    tmp_path: Path, server: str, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(official, "MAX_DOWNLOAD", 1000)
    with pytest.raises(ModelRefused, match="larger than"):
        fetch(f"{server}/model.zip", "mine", tmp_path, client)


def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path, server: str) -> None:
    with pytest.raises(ImportNeedsMore, match="CERTIFICATE_VERIFY_FAILED"):
        fetch(f"{server}/model.zip", "mine", tmp_path)


def test_without_a_network_one_is_told_what_to_do(tmp_path: Path, server: str, client: httpx.Client) -> None:
    with pytest.raises(ImportNeedsMore, match=r"microtome model import brightfield_nuclei\.zip"):
        fetch("https://127.0.0.1:9/model.zip", "brightfield_nuclei", tmp_path)
    with pytest.raises(ImportNeedsMore, match="404"):
        fetch(f"{server}/missing.zip", "mine", tmp_path, client)


def test_the_official_names() -> None:
    assert {"brightfield_nuclei", "fluorescence_nuclei_and_cells"} <= OFFICIAL.keys()
    assert all(
        model.url.startswith("https://") and model.url.endswith(f"{name}.zip") for name, model in OFFICIAL.items()
    )
