"""Subjects: the addresses of messages, built from checked tokens.

Promises: every subject of Microtome is built here, and no user input can add a token or a
wildcard to one (a foreign tenant's subject can never be reached by a crafted id).
Refuses: tokens that are empty, too long, or hold anything but letters, digits, `_` and `-`.
"""

from __future__ import annotations

import re

from microtome.errors import InvalidRequest

_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{12,64}")

#: Subjects that the streams capture.
EVENTS = "events.>"
WORK_PLAN = "work.plan"
WORK_INFER = "work.infer.*.*"
WORK_MERGE = "work.merge"
DEAD_LETTERS = "dead.>"

#: How far everybody's jobs are, on core NATS.
PROGRESS = "progress.>"


def token(value: str, what: str = "token") -> str:
    """Return `value` if it may be one token of a subject.

    Raises: InvalidRequest.
    """
    if not _TOKEN.fullmatch(value):
        raise InvalidRequest(f"The {what} {value[:80]!r} is not 1 to 64 of A-Z a-z 0-9 _ -.")
    return value


def event(user: str, aggregate: str, aggregate_id: str, event_type: str) -> str:
    """`events.<user>.<aggregate>.<id>.<EventType>`: a fact of the log. Raises: InvalidRequest."""
    return ".".join(
        (
            "events",
            token(user, "user id"),
            token(aggregate, "aggregate"),
            token(aggregate_id, "aggregate id"),
            token(event_type, "event type"),
        )
    )


def events_of(user: str, aggregate: str = "*", aggregate_id: str = "*") -> str:
    """Return the pattern of one user's events, of one aggregate of theirs if asked. Raises: InvalidRequest."""
    parts = [value if value == "*" else token(value) for value in (aggregate, aggregate_id)]
    return ".".join(("events", token(user, "user id"), *parts, "*"))


def digest12(model_digest: str) -> str:
    """Return the first 12 hex digits of a model's digest, which name its queue. Raises: InvalidRequest."""
    digest = model_digest.removeprefix("sha256:")
    if not _DIGEST.fullmatch(digest):
        raise InvalidRequest(f"{model_digest[:80]!r} is not a model digest in lower-case hex.")
    return digest[:12]


def work_infer(model_digest: str, engine: str) -> str:
    """`work.infer.<12 hex>.<engine>`: tile batches for one model on the engine wished for ("auto" or a name).

    A worker takes the tiles of its own wish only: who forces fp32 is served by nobody else. Raises: InvalidRequest.
    """
    return f"work.infer.{digest12(model_digest)}.{token(engine, 'engine')}"


def dead(queue: str) -> str:
    """`dead.<queue>`: messages of the queue that could not be worked on. Raises: InvalidRequest."""
    return f"dead.{token(queue, 'queue')}"


def tiles(job_id: str, attempt: int) -> str:
    """`tiles.<job_id>.<attempt>`: tile results became available (lossy). Raises: InvalidRequest."""
    return f"tiles.{token(job_id, 'job id')}.{token(str(attempt), 'attempt')}"


def progress(user: str, workflow_id: str, job_id: str) -> str:
    """`progress.<user>.<workflow_id>.<job_id>`: how far a job is (lossy). Raises: InvalidRequest."""
    return ".".join(
        (
            "progress",
            token(user, "user id"),
            token(workflow_id, "workflow id"),
            token(job_id, "job id"),
        )
    )


def service(name: str) -> str:
    """`service.<name>`: a worker process is there (lossy). Raises: InvalidRequest."""
    return f"service.{token(name, 'service')}"


def matches(pattern: str, subject: str) -> bool:
    """Return whether `subject` matches `pattern` by the rules of NATS (`*` one token, `>` one or more)."""
    wanted, given = pattern.split("."), subject.split(".")
    for index, part in enumerate(wanted):
        if part == ">":
            return len(given) > index
        if index >= len(given) or part not in ("*", given[index]):
            return False
    return len(wanted) == len(given)
