"""The asynchronous API client: everything that the API offers, as one object.

Promises: uploads and downloads are streamed; a download appears under its name only when complete.
Refuses: to retry what changes something, unless the server refused it or it carries a key.
"""

from __future__ import annotations

from typing import Any, cast

from microtome.client.jobs import JobCalls
from microtome.client.slides import Progress, SlideCalls
from microtome.client.workflows import WorkflowCalls

__all__ = ["ApiClient", "Progress"]


class ApiClient(SlideCalls, WorkflowCalls, JobCalls):
    """One user's view of one server.

    Every method raises `ApiProblem` when the server refuses and `Unavailable` when it cannot be reached.
    """

    async def health(self) -> dict[str, Any]:
        """Ask whether the server and what it needs are well."""
        return cast("dict[str, Any]", await self.call("GET", "health"))

    async def status(self) -> dict[str, Any]:
        """Ask for version, limits, services, engine and model."""
        return cast("dict[str, Any]", await self.call("GET", "status"))

    async def me(self) -> dict[str, Any]:
        """Ask for one's own limits, usage and place in line."""
        return cast("dict[str, Any]", await self.call("GET", "users/me"))
