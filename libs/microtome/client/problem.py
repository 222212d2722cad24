"""Refusals of the server, parsed (RFC 9457).

Promises: every answer of 400 or more becomes an `ApiProblem`, also one that no gateway wrote.
Refuses: to retry; `problem.transient` says whether that can help.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from microtome.errors import MicrotomeError, Unavailable


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem document. `errors` are (field, detail) of each wrong field."""

    status: int
    code: str
    title: str
    detail: str
    transient: bool = False
    errors: tuple[tuple[str, str], ...] = ()

    @classmethod
    def from_response(cls, response: httpx.Response) -> Problem:
        """Parse the body; what is not a problem document becomes one with the code `http-<status>`."""
        try:
            document: Any = response.json()
        except ValueError:
            document = None
        if not isinstance(document, Mapping) or "code" not in document:
            text = response.text.strip()[:500] or response.reason_phrase
            return cls(response.status_code, f"http-{response.status_code}", response.reason_phrase, text)
        return cls(
            status=response.status_code,
            code=str(document["code"]),
            title=str(document.get("title", "")),
            detail=str(document.get("detail") or document.get("title") or document["code"]),
            transient=bool(document.get("transient", False)),
            errors=tuple((str(e.get("field", "")), str(e.get("detail", ""))) for e in document.get("errors") or ()),
        )

    def __str__(self) -> str:
        lines = [f"{self.detail} ({self.code}, status {self.status})"]
        lines.extend(f"  {field}: {detail}" for field, detail in self.errors)
        return "\n".join(lines)


class ApiProblem(MicrotomeError):
    """The server refused a request; `problem` says why."""

    code = "api-problem"

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def raise_for_problem(response: httpx.Response) -> None:
    """Raise ApiProblem for a status of 400 or more; the body must have been read."""
    if response.is_error:
        raise ApiProblem(Problem.from_response(response))


def unreachable(url: str, error: Exception) -> Unavailable:
    """Return the error of a server that does not answer, or not to the end."""
    return Unavailable(f"{url} does not answer: {error or type(error).__name__}")
