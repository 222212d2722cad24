"""Which slide the demo takes.

Promises: a real slide wherever one can be had; one made by a program is called synthetic.
Refuses: to use a downloaded file whose checksum is wrong.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from microtome.errors import InvalidRequest

NAME = "CMU-1-Small-Region.svs"
URL = f"https://openslide.cs.cmu.edu/download/openslide-testdata/Aperio/{NAME}"
SHA256 = "ed92d5a9f2e86df67640d6f92ce3e231419ce127131697fbbce42ad5e002c8a7"
SIZE_LIMIT = 16 * 1024 * 1024
TIMEOUT = httpx.Timeout(15.0, connect=5.0)


@dataclass(frozen=True, slots=True)
class DemoSlide:
    """A file to segment; `origin` says where it comes from, for people."""

    path: Path
    origin: str


class DownloadFailed(InvalidRequest):
    """The demo's slide could not be downloaded."""

    code = "download-failed"


def choose(asked: str, cache: Path, say: Callable[[str], None]) -> DemoSlide:
    """Take the slide that was asked for, else the cached one, else download it, else make one.

    Raises InvalidRequest if the slide that was asked for is not a file.
    """
    if asked:
        path = Path(asked).expanduser()
        if not path.is_file():
            raise InvalidRequest(f"SLIDE={asked} is not a file.")
        return DemoSlide(path, "your file")
    cached = cache / NAME
    if cached.is_file() and _sha256(cached) == SHA256:
        return DemoSlide(cached, "OpenSlide test data, downloaded earlier")
    say(f"Fetching {URL} (1.9 MB) …")
    try:
        download(URL, cached, SHA256)
    except DownloadFailed as error:
        say(f"{error.detail} A synthetic slide is made instead; for a real one: make demo SLIDE=/path/to/slide.svs")
        return DemoSlide(_synthetic(cache), "synthetic: drawn by a program, not tissue")
    return DemoSlide(cached, "OpenSlide test data, CMU-1-Small-Region (Aperio, H&E)")


def download(url: str, target: Path, sha256: str) -> None:
    """Stream `url` into `target`, which appears only if the checksum is right. Raises DownloadFailed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    digest = hashlib.sha256()
    size = 0
    try:
        with httpx.stream("GET", url, timeout=TIMEOUT, follow_redirects=True) as response, partial.open("wb") as file:
            response.raise_for_status()
            for chunk in response.iter_bytes():
                size += len(chunk)
                if size > SIZE_LIMIT:
                    raise DownloadFailed(f"{url} is larger than it should be.")
                digest.update(chunk)
                file.write(chunk)
        if digest.hexdigest() != sha256:
            raise DownloadFailed(f"{url} is not the file it should be (sha256 {digest.hexdigest()}).")
        partial.replace(target)
    # The last three: proxy settings that httpx cannot use, such as ALL_PROXY=socks5://… without a SOCKS package.
    except (httpx.HTTPError, OSError, httpx.InvalidURL, ImportError, ValueError) as error:
        raise DownloadFailed(f"No slide from the internet ({str(error) or type(error).__name__}).") from error
    finally:
        partial.unlink(missing_ok=True)


def _synthetic(cache: Path) -> Path:
    from microtome.slides.synthetic import write_synthetic_slide

    path = cache / "synthetic.tif"
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        partial = path.with_name("partial-synthetic.tif")
        write_synthetic_slide(partial)
        partial.replace(path)
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
