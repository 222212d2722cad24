"""Which slide the demo takes, with a real HTTP server on this machine."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from microtome.demo import source
from microtome.demo.source import DownloadFailed, choose, download
from microtome.embedded.ports import free_ports
from microtome.errors import InvalidRequest


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "slide.svs").write_bytes(b"pixels")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_download_with_the_right_checksum_is_kept(site: str, tmp_path: Path) -> None:
    target = tmp_path / "cache" / "slide.svs"
    download(f"{site}/slide.svs", target, hashlib.sha256(b"pixels").hexdigest())
    assert target.read_bytes() == b"pixels"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize(("name", "what"), [("slide.svs", "not the file it should be"), ("none.svs", "404")])
def test_a_wrong_or_missing_file_leaves_nothing(site: str, tmp_path: Path, name: str, what: str) -> None:
    target = tmp_path / "cache" / "slide.svs"
    with pytest.raises(DownloadFailed, match=what):
        download(f"{site}/{name}", target, "0" * 64)
    assert list(target.parent.iterdir()) == []


def test_offline_a_synthetic_slide_is_made_once_and_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "URL", f"http://127.0.0.1:{free_ports(1)[0]}/slide.svs")
    said: list[str] = []
    first = choose("", tmp_path, said.append)
    assert "synthetic" in first.origin
    assert any("synthetic" in line for line in said)
    made = first.path.stat().st_mtime_ns
    assert choose("", tmp_path, said.append).path.stat().st_mtime_ns == made


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1080", "gopher://127.0.0.1:1080", "http://[broken"])
def test_a_proxy_that_cannot_be_used_is_like_being_offline(
    proxy: str, site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_PROXY", "no_proxy", "HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(DownloadFailed, match="No slide from the internet"):
        download(f"{site}/slide.svs", tmp_path / "slide.svs", "0" * 64)


def test_the_cached_slide_is_taken_only_if_it_is_whole(
    tmp_path: Path, small_slide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "URL", f"http://127.0.0.1:{free_ports(1)[0]}/slide.svs")
    cached = tmp_path / source.NAME
    cached.write_bytes(small_slide.read_bytes())
    assert choose("", tmp_path, print).path == cached
    cached.write_bytes(small_slide.read_bytes()[:-1])
    assert choose("", tmp_path, print).path != cached


def test_the_slide_that_was_asked_for_wins_and_must_exist(tmp_path: Path) -> None:
    mine = tmp_path / "my slide.tif"
    mine.touch()
    assert choose(str(mine), tmp_path, print).path == mine
    with pytest.raises(InvalidRequest, match="SLIDE"):
        choose(str(tmp_path / "other.tif"), tmp_path, print)
