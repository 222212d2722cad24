"""The one error hierarchy of Microtome.

Promises: every error that a user or an operator can meet is a `MicrotomeError`; its class says
what kind of failure it is (`code`, stable and part of the API), and whether trying again can
help (`transient`). The message says what to do.
Refuses: to know HTTP. The gateway maps `code` to a status.
"""

from __future__ import annotations

from typing import ClassVar


class MicrotomeError(Exception):
    """Something in Microtome went wrong."""

    code: ClassVar[str] = "internal"
    transient: ClassVar[bool] = False

    def __init__(self, detail: str | None = None) -> None:
        self.detail = detail or (type(self).__doc__ or "").strip().splitlines()[0]
        super().__init__(self.detail)


class InvalidRequest(MicrotomeError):
    """The request cannot be understood or asks for something impossible."""

    code = "invalid-request"


class InvalidWorkflow(InvalidRequest):
    """The workflow is not a valid graph of jobs."""

    code = "invalid-workflow"


class InvalidTissue(InvalidRequest):
    """The tissue that was drawn cannot be used."""

    code = "invalid-tissue"


class NotFound(MicrotomeError):
    """There is nothing of yours under this id."""

    code = "not-found"


class Conflict(MicrotomeError):
    """The thing is not in a state that allows this."""

    code = "conflict"


class ConcurrencyConflict(MicrotomeError):
    """Someone else appended to the stream first; read it again and decide anew."""

    code = "concurrency-conflict"
    transient = True


class StaleAttempt(MicrotomeError):
    """The report comes from an attempt that is no longer the current one."""

    code = "stale-attempt"


class TooLarge(MicrotomeError):
    """The body or the image is larger than this server accepts."""

    code = "too-large"


class Busy(MicrotomeError):
    """The server is busy; try again later."""

    code = "busy"
    transient = True


class Unavailable(MicrotomeError):
    """A part of the system that is needed here does not answer."""

    code = "unavailable"
    transient = True


class UnreadableSlide(MicrotomeError):
    """The file is not an image that Microtome can read."""

    code = "unreadable-slide"


class UnknownMpp(MicrotomeError):
    """The slide does not say how large its pixels are; give `mpp` in µm per pixel."""

    code = "unknown-mpp"


class UnsuitableSlide(MicrotomeError):
    """The model cannot be used on a slide of this kind."""

    code = "unsuitable-slide"


class UnknownModel(MicrotomeError):
    """There is no model of this name."""

    code = "unknown-model"


class ModelMismatch(MicrotomeError):
    """The model's file and its description do not belong together."""

    code = "model-mismatch"


class WorkerLost(MicrotomeError):
    """The process that worked on the job died or stopped answering."""

    code = "worker-lost"
    transient = True


class MachineFailed(MicrotomeError):
    """The machine that worked on the job gave out: its memory, its disk, or the way to it."""

    code = "machine-failed"
    transient = True


class SlideGone(MicrotomeError):
    """The slide was deleted, so nothing more can be found on it."""

    code = "slide-deleted"


class ConfigurationError(MicrotomeError):
    """A setting has a value that cannot work."""

    code = "configuration"
