"""The models that InstanSeg's authors publish, and fetching one.

Promises: over https only, redirections included; bounded in size and time; what came is named by its digest, and held
against the digest that was expected, if one was, before anybody reads it.
Refuses: to go on without a network in silence: the error says what to fetch elsewhere and how to import it here.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

from microtome.models.refusals import ImportNeedsMore, ModelRefused

_RELEASES = "https://github.com/instanseg/instanseg/releases/download"
MAX_DOWNLOAD = 512 << 20
_PATIENCE_S = 600.0
_CONNECT_S = 10.0
_REDIRECTS = 5


@dataclass(frozen=True, slots=True)
class Official:
    """A published model. `sha256`: of its file, where it is known; None: whatever the release holds is taken."""

    name: str
    version: str
    url: str
    licence: str
    sha256: str | None = None


OFFICIAL = {
    model.name: model
    for model in (
        Official(name, version, f"{_RELEASES}/instanseg_models_v{version}/{name}.zip", "Apache-2.0")
        for name, version in (
            ("brightfield_nuclei", "0.1.1"),
            ("fluorescence_nuclei_and_cells", "0.1.1"),
            ("single_channel_nuclei", "0.1.2"),
        )
    )
}


def fetch(
    url: str, name: str, folder: Path, client: httpx.Client | None = None, sha256: str | None = None
) -> tuple[Path, str]:
    """Fetch `url` into `folder` as `name`.zip; return the file and its sha256.

    Raises `ImportNeedsMore` if it cannot be reached, `ModelRefused` if what comes is too large, not over https, or not
    the file with that `sha256`; nothing is left in `folder` then.
    """
    target = folder / f"{name}.zip"
    own = client or httpx.Client(timeout=httpx.Timeout(60.0, connect=_CONNECT_S))
    try:
        digest = _stream(own, httpx.URL(url), target)
    except httpx.HTTPError as error:
        raise ImportNeedsMore(
            f"{url} cannot be fetched from here ({type(error).__name__}: {error}). Fetch it where there is a network, "
            f"bring the zip over, and import the file: microtome model import {name}.zip"
        ) from error
    finally:
        if client is None:
            own.close()
    if sha256 is not None and digest != sha256:
        target.unlink()
        raise ModelRefused(mismatch(url, digest, sha256))
    return target, digest


def mismatch(what: str, digest: str, expected: str) -> str:
    """Say that a file is not the one that was expected."""
    return f"'{what}' has sha256 {digest}, not {expected} as expected. It was not read."


def _stream(client: httpx.Client, url: httpx.URL, target: Path) -> str:
    digest, size, end = hashlib.sha256(), 0, time.monotonic() + _PATIENCE_S
    for _ in range(_REDIRECTS + 1):
        if url.scheme != "https":
            raise ModelRefused(f"{url} is not https; models are fetched over https only.")
        with client.stream("GET", url, follow_redirects=False) as answer:
            if answer.is_redirect and answer.next_request is not None:
                url = answer.next_request.url
                continue
            answer.raise_for_status()
            with target.open("wb") as file:
                for chunk in answer.iter_bytes():
                    size += len(chunk)
                    if size > MAX_DOWNLOAD or time.monotonic() > end:
                        raise ModelRefused(
                            f"{url} is larger than {MAX_DOWNLOAD >> 20} MiB, or took longer than {_PATIENCE_S:.0f} s."
                        )
                    digest.update(chunk)
                    file.write(chunk)
            return digest.hexdigest()
    raise ModelRefused(f"{url} redirects more than {_REDIRECTS} times.")
