"""Who is asking.

Promises: a `UserId` is safe as a subject token and as a part of a path.
Refuses: to authenticate; a proxy in front of the gateway sets the header where that is needed.
"""

from __future__ import annotations

import re
from typing import Annotated, ClassVar

from fastapi import Depends, Header, Query

from microtome.errors import MicrotomeError

_USER_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class UserRequired(MicrotomeError):
    """Say who you are: send the header X-User-ID."""

    code: ClassVar[str] = "user-required"


class InvalidUser(MicrotomeError):
    """X-User-ID may have 1 to 64 letters, digits, hyphens and underscores."""

    code: ClassVar[str] = "invalid-user"


def checked_user(value: str | None) -> str:
    """The user id, checked. Raises `UserRequired` or `InvalidUser`."""
    if value is None or value == "":
        raise UserRequired
    if _USER_ID.fullmatch(value) is None:
        raise InvalidUser
    return value


async def _from_header(
    x_user_id: Annotated[
        str | None, Header(alias="X-User-ID", description="Who asks: 1 to 64 letters, digits, hyphens, underscores.")
    ] = None,
) -> str:
    return checked_user(x_user_id)


async def _from_header_or_query(
    x_user_id: Annotated[str | None, Header(alias="X-User-ID")] = None,
    user: Annotated[
        str | None, Query(description="The user, where a browser cannot send the header (links, images).")
    ] = None,
) -> str:
    return checked_user(x_user_id if x_user_id is not None else user)


User = Annotated[str, Depends(_from_header)]
"""The user from the header."""

LinkUser = Annotated[str, Depends(_from_header_or_query)]
"""The user of a link or an image, which cannot carry a header: the query parameter serves too."""
