"""What a client says about the bytes that it sends: digests of a file, checksums of a piece.

Promises: whoever announces a digest learns of a single wrong bit, and nothing of the file is kept then.
Refuses: algorithms that it does not know, instead of ignoring them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import zlib
from dataclasses import dataclass
from typing import ClassVar, Protocol

from microtome.errors import InvalidRequest, MicrotomeError

_DIGEST = re.compile(r"\s*([a-z0-9*_.-]+)\s*=\s*:([A-Za-z0-9+/=]*):\s*")
_HEX = re.compile(r"[0-9a-fA-F]{64}")
_LENGTHS = {"sha1": 20, "sha256": 32, "crc32": 4}
ALGORITHMS = tuple(_LENGTHS)


class ChecksumMismatch(MicrotomeError):
    """The file that arrived is not the file that was announced; send it again."""

    code: ClassVar[str] = "checksum-mismatch"


class ChunkChecksumMismatch(MicrotomeError):
    """A piece of the upload arrived damaged and was dropped; send it again."""

    code: ClassVar[str] = "chunk-checksum-mismatch"


class UnknownChecksum(InvalidRequest):
    """Upload-Checksum is one of sha1, sha256 or crc32, and its value in base64."""


def check_file(announced: str | None, sha256: str) -> None:
    """Compare hexadecimal sha256. Raises `ChecksumMismatch`."""
    if announced is not None and announced != sha256:
        raise ChecksumMismatch(
            f"The file that arrived has the sha256 {sha256}, not {announced} as announced; it was dropped."
        )


def parse_sha256(text: str | None) -> str | None:
    """Read a hexadecimal sha256. Raises `InvalidRequest`."""
    if text is None:
        return None
    if _HEX.fullmatch(text) is None:
        raise InvalidRequest("sha256 has 64 hexadecimal digits.")
    return text.lower()


def parse_digests(*headers: str | None) -> str | None:
    """Read the sha-256 of Content-Digest or Repr-Digest (RFC 9530) as hexadecimal. Raises `InvalidRequest`."""
    found = set()
    for header in headers:
        if header is None:
            continue
        members = [_DIGEST.fullmatch(member) for member in header.split(",")]
        known = [match[2] for match in members if match is not None and match[1] == "sha-256"]
        if len(known) != 1 or None in members:
            raise InvalidRequest("A digest is given as sha-256=:<base64>:, which is the only one known here.")
        found.add(_decoded(known[0], 32, "The digest").hex())
    if len(found) > 1:
        raise InvalidRequest("The announced digests contradict each other.")
    return next(iter(found), None)


class Summing(Protocol):
    """A hash in the making."""

    def update(self, data: bytes, /) -> None:
        """Take more bytes."""

    def digest(self) -> bytes:
        """Return the value so far."""
        ...


class _Crc32:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


@dataclass(frozen=True, slots=True)
class Checksum:
    """What a piece of an upload must sum up to."""

    algorithm: str
    value: bytes

    @classmethod
    def parse(cls, header: str | None) -> Checksum | None:
        """Read Upload-Checksum (tus). A crc32 is big-endian. Raises `UnknownChecksum`."""
        if header is None:
            return None
        algorithm, _, value = header.strip().partition(" ")
        if algorithm not in _LENGTHS:
            raise UnknownChecksum
        return cls(algorithm, _decoded(value.strip(), _LENGTHS[algorithm], "Upload-Checksum"))

    def begin(self) -> Summing:
        """Start to sum up."""
        if self.algorithm == "crc32":
            return _Crc32()
        return hashlib.new(self.algorithm, usedforsecurity=False)

    def check(self, summed: Summing) -> None:
        """Compare. Raises `ChunkChecksumMismatch`."""
        if summed.digest() != self.value:
            raise ChunkChecksumMismatch


def _decoded(text: str, length: int, what: str) -> bytes:
    try:
        value = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise InvalidRequest(f"{what} is not base64.") from error
    if len(value) != length:
        raise InvalidRequest(f"{what} has {len(value)} bytes instead of {length}.")
    return value
