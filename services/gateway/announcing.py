"""What a client says about an upload before its bytes: the header Upload-Metadata of tus.

Promises: what is wrong is said when the upload is created, not after the last byte. Keys that mean nothing here
(clients send `filetype` and the like) are kept and given back.
Refuses: values that are not base64, the same key twice.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from dataclasses import dataclass

from microtome.errors import InvalidRequest
from services.gateway.integrity import parse_sha256
from services.gateway.registration import PixelSizeWish
from services.gateway.uploads import clean_filename

_LONGEST = 4096
_KEY = re.compile(r"[^\s,]+")
_MPP = (0.05, 10.0)


@dataclass(frozen=True, slots=True)
class Announcement:
    """The slide's file name, cleaned; the pixel size that the user gives; the hexadecimal sha256 if it is known."""

    filename: str
    wish: PixelSizeWish
    sha256: str | None

    @classmethod
    def parse(cls, header: str | None) -> Announcement:
        """Read `key base64,key base64,…`. Raises `InvalidRequest`."""
        values = _values(header or "")
        name = values.get("filename") or values.get("name") or "slide"
        wish = PixelSizeWish(_mpp(values, "mpp"), _mpp(values, "assume_mpp"))
        return cls(clean_filename(name[:500]), wish, parse_sha256(values.get("sha256") or None))


def _values(header: str) -> dict[str, str]:
    if len(header) > _LONGEST:
        raise InvalidRequest(f"Upload-Metadata is longer than {_LONGEST} characters.")
    values: dict[str, str] = {}
    for pair in header.split(",") if header.strip() else ():
        key, _, value = pair.strip().partition(" ")
        if _KEY.fullmatch(key) is None or key in values:
            raise InvalidRequest(
                "Upload-Metadata is a list of different keys with values in base64: key value,key value"
            )
        try:
            values[key] = base64.b64decode(value.strip(), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError) as error:
            raise InvalidRequest(f"The value of {key[:80]!r} in Upload-Metadata is not text in base64.") from error
    return values


def _mpp(values: dict[str, str], key: str) -> float | None:
    if not values.get(key):
        return None
    try:
        mpp = float(values[key])
    except ValueError:
        mpp = math.nan
    if not _MPP[0] <= mpp <= _MPP[1]:
        raise InvalidRequest(f"{key} in Upload-Metadata is µm per level-0 pixel, from {_MPP[0]} to {_MPP[1]:g}.")
    return mpp
