"""Every kind of problem that the API answers with: `python -m services.gateway.kinds > docs/problems.md`.

Promises: a code, once here, keeps its meaning and its status. Refuses: details of single cases; those are said where
the error is raised.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of problem. `transient`: the same request can succeed later."""

    status: int
    title: str
    meaning: str
    remedy: str
    transient: bool = False


KINDS: Mapping[str, Kind] = {
    "user-required": Kind(401, "Say who you are", "The request names no user.", "Send the header `X-User-ID`."),
    "invalid-user": Kind(
        400,
        "Not a user id",
        "The user id has characters that it may not have, or is too long.",
        "Use 1 to 64 letters, digits, hyphens and underscores.",
    ),
    "invalid-request": Kind(
        422,
        "Invalid request",
        "A field is missing, of the wrong type or out of its range; `errors` names each one. With status 400 the "
        "request is not HTTP that makes sense.",
        "Correct the fields that `errors` names.",
    ),
    "invalid-workflow": Kind(
        422,
        "Not a graph of jobs that can be run",
        "Keys twice, dependencies that lead nowhere or in a circle, slides that are not yours, or more than fits into "
        "one workflow.",
        "Correct what `detail` names.",
    ),
    "invalid-tissue": Kind(
        422,
        "Not an area on the slide",
        "What was drawn as tissue is no GeoJSON polygon, is not closed, has numbers that are none, lies beside the "
        "slide, or has too many points.",
        "Correct what `detail` names.",
    ),
    "unreadable-slide": Kind(
        422,
        "Not a slide",
        "The file is not an image that can be read, or it is damaged.",
        "Check the file, or convert it to a pyramidal TIFF.",
    ),
    "unknown-mpp": Kind(
        422,
        "Pixel size unknown",
        "The slide does not say how large its pixels are.",
        "Give `mpp` (known) or `assume_mpp` (assumed), in µm per pixel.",
    ),
    "unsuitable-slide": Kind(
        422,
        "Unsuitable slide",
        "The model was not made for slides of this kind.",
        "Use `TISSUE_MASK`, or another slide.",
    ),
    "unknown-model": Kind(
        422, "Unknown model", "This server does not run the model.", "Choose the model of `GET /status`, or none."
    ),
    "checksum-mismatch": Kind(
        422,
        "Checksum mismatch",
        "What arrived is not what the checksum of the request is about.",
        "Upload again; look for what changes the file on its way.",
    ),
    "not-found": Kind(
        404,
        "Not found",
        "There is nothing of yours under this address. What belongs to others looks the same.",
        "Check the id and the user.",
    ),
    "method-not-allowed": Kind(
        405, "Method not allowed", "The address exists, but not for this method.", "See the OpenAPI document."
    ),
    "conflict": Kind(
        409,
        "Not possible now",
        "The thing is not in a state that allows this, or the `Idempotency-Key` belongs to another request.",
        "Look at the thing again; `detail` says what stands in the way.",
    ),
    "concurrency-conflict": Kind(
        409, "Somebody was faster", "Somebody else changed the same thing at the same time.", "Try again.", True
    ),
    "stale-attempt": Kind(
        409, "Stale attempt", "A report of an attempt that has been replaced by a newer one.", "Nothing; it is ignored."
    ),
    "slide-in-use": Kind(
        409,
        "Slide in use",
        "Jobs that are not finished need the slide.",
        "Wait for them or cancel them, then delete it.",
    ),
    "slide-deleted": Kind(
        410, "Slide deleted", "The slide was deleted, so nothing more can be found on it.", "Upload it again."
    ),
    "artifacts-deleted": Kind(410, "Artifacts deleted", "The files of this job were deleted.", "Submit the job again."),
    "too-large": Kind(
        413,
        "Too large",
        "The body is larger than this server takes.",
        "See the limits in `GET /status`; split a large workflow into several.",
    ),
    "quota-exceeded": Kind(
        413,
        "Quota exceeded",
        "Your slides, what you drew on them and open uploads take as much as one user may have.",
        "Delete slides that you need no more.",
    ),
    "storage-full": Kind(
        507,
        "Storage full",
        "The server has no room left for the file.",
        "Tell the operator; try again when there is room.",
    ),
    "request-timeout": Kind(
        408, "Request timeout", "The body of the request stopped coming.", "Send it again; large files with tus.", True
    ),
    "offset-mismatch": Kind(
        409,
        "Wrong offset",
        "The chunk does not begin where the upload ends.",
        "Ask for the offset with `HEAD` and go on from there.",
    ),
    "upload-expired": Kind(410, "Upload expired", "Nobody continued the upload for too long.", "Begin a new upload."),
    "upload-locked": Kind(
        423, "Upload locked", "Another request writes to the same upload.", "Try again in a moment.", True
    ),
    "tus-version": Kind(412, "Unsupported tus version", "The server speaks tus 1.0.0.", "Send `Tus-Resumable: 1.0.0`."),
    "unsupported-media-type": Kind(
        415,
        "Unsupported media type",
        "A chunk of an upload comes as `application/offset+octet-stream`.",
        "Set `Content-Type` so.",
    ),
    # The status is that of the tus protocol.
    "chunk-checksum-mismatch": Kind(
        460,
        "Checksum of a chunk mismatch",
        "A chunk was damaged on its way and not kept.",
        "Send the chunk again.",
    ),
    "rate-limited": Kind(
        429,
        "Too many submissions",
        "You submit faster than one user may; `RateLimit-*` and `Retry-After` say how fast that is.",
        "Wait as `Retry-After` says, and send the same request again.",
        True,
    ),
    "too-many-jobs": Kind(
        429,
        "Too many unfinished jobs",
        "You have as many unfinished jobs as one user may have.",
        "Wait until some are done, or cancel some.",
        True,
    ),
    "too-many-clients": Kind(
        429,
        "Too many live views",
        "You have as many live views open as one user may have.",
        "Close some; a page that was left lets go of its own within moments.",
        True,
    ),
    "too-many-uploads": Kind(
        429,
        "Too many uploads",
        "You have begun as many uploads as one user may have under way.",
        "Finish some or give some up (`DELETE`), or wait until they expire.",
        True,
    ),
    "busy": Kind(
        503,
        "Busy",
        "A part of the server that is needed here has too much to do.",
        "Wait as `Retry-After` says, and try again.",
        True,
    ),
    "overloaded": Kind(
        503,
        "Overloaded",
        "This process has as many requests or live clients as it takes; nothing was done.",
        "Wait as `Retry-After` says, and try again.",
        True,
    ),
    "unavailable": Kind(
        503,
        "Unavailable",
        "Something that the server needs does not answer: Postgres, NATS or the disk.",
        "Try again. What changes something was done or was not: repeat it with the same `Idempotency-Key`.",
        True,
    ),
    "worker-lost": Kind(
        503, "Worker lost", "The process that worked on this died or stopped answering.", "Try again.", True
    ),
    "internal": Kind(
        500,
        "Something went wrong",
        "Nobody foresaw this. The server's log has it under the incident that `detail` names.",
        "Tell the operator the incident.",
    ),
}

# Of `error.code` of a job: what a job can fail with besides the codes above.
OF_JOBS: Mapping[str, str] = {
    "worker-lost": "The process that worked on the job died or stopped answering. Tried again by itself.",
    "machine-failed": "The machine gave out: its memory, its disk, or the way to it. Tried again by itself.",
    "model-mismatch": "The model's file and its description do not belong together; an operator's matter.",
    "configuration": "A setting of the worker cannot work; an operator's matter.",
    "unreadable-slide": "The slide cannot be read as far as the job needs it.",
    "unknown-mpp": "The slide does not say how large its pixels are.",
    "unsuitable-slide": "The model was not made for slides of this kind.",
    "slide-deleted": "The slide was deleted before the job was done.",
    "internal": "Nobody foresaw this; the worker's log has the rest.",
}

_HEAD = """# Problems

Every answer with a status of 400 or more is `application/problem+json` (RFC 9457), and so is the refusal of a
websocket that does not come about. `type` is `urn:microtome:problem:<code>`; codes keep their meaning, so programs
should go by `code`, people by `detail`. `transient` says whether the same request can succeed later; with status 429
and 503 `Retry-After` says when. A websocket that is open is closed with 4400 (bad position), 4401 (no user), 4404 (not
found), 4409 (a position that the log has not reached) or 1013 (try again).

This page is made of `services/gateway/kinds.py`; a test compares them.

| code | status | transient | what it means | what to do |
|---|---|---|---|---|
"""
_JOBS = """
## Errors of jobs

A job that failed has `error: {code, detail, transient}`. Where `transient` is true it was tried again by itself as
often as `MAX_ATTEMPTS` allows.

| code | what it means |
|---|---|
"""


def page() -> str:
    """docs/problems.md."""
    rows = (
        f"| `{code}` | {kind.status} | {'yes' if kind.transient else 'no'} | {kind.meaning} | {kind.remedy} |\n"
        for code, kind in sorted(KINDS.items(), key=lambda item: (item[1].status, item[0]))
    )
    jobs = (f"| `{code}` | {meaning} |\n" for code, meaning in OF_JOBS.items())
    return _HEAD + "".join(rows) + _JOBS + "".join(jobs)


if __name__ == "__main__":
    sys.stdout.write(page())
