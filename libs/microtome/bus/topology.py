"""Streams and work queues as data.

Promises: one description of all JetStream streams and of every durable consumer.
Refuses: I/O; `microtome.bus.provision` makes a server agree with this page.

The server's own `max_deliver` stays unlimited on purpose. With a limit, a message over it stays
in the stream and nobody is given it again: it can only be found through an advisory, which is
lost when nobody listens. Here the delivery after the last allowed one is still given to a worker,
and `PullQueue` dead-letters it before any handler sees it; nothing has to be overheard.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from microtome.bus import subjects

_DAY_S = 24 * 3600.0


class Retention(StrEnum):
    """When a stream forgets a message: by its limits, or when it was worked on."""

    LIMITS = "limits"
    WORK_QUEUE = "workqueue"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSpec:
    """A stream on disk. `max_age_s` 0 means for ever. A full limits stream forgets its oldest
    message; a full work queue refuses new ones, which holds the publisher back.
    """

    name: str
    subjects: tuple[str, ...]
    retention: Retention
    max_age_s: float = 0.0
    max_messages: int = 1_000_000
    duplicate_window_s: float = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSpec:
    """A work queue: one durable pull consumer with explicit acknowledgement.

    `name` names it in metrics and in `dead.<name>`; `max_deliver` is how often a handler may see
    a message; `max_ack_pending` bounds what all workers together hold unsettled. A consumer that nobody asked for
    messages for `inactive_s` seconds is forgotten by the server (0: never), its messages are not.
    """

    name: str
    stream: str
    durable: str
    subject: str
    # So long a job waits whose message a killed service held, or that was on its way when NATS was killed.
    ack_wait_s: float = 12.0
    max_deliver: int = 6
    max_ack_pending: int = 64
    inactive_s: float = 0.0

    @property
    def heartbeat_s(self) -> float:
        """Seconds between heartbeats: a quarter of `ack_wait_s`, so that a late one is still in time."""
        return self.ack_wait_s / 4


EVENTS = StreamSpec(name="EVENTS", subjects=(subjects.EVENTS,), retention=Retention.LIMITS, max_age_s=7 * _DAY_S)
WORK_PLAN = StreamSpec(name="WORK_PLAN", subjects=(subjects.WORK_PLAN,), retention=Retention.WORK_QUEUE)
# What a day old is waits for a worker that will not come: the tiler sent tiles that are still wanted again long since.
WORK_INFER = StreamSpec(
    name="WORK_INFER", subjects=(subjects.WORK_INFER,), retention=Retention.WORK_QUEUE, max_age_s=_DAY_S
)
WORK_MERGE = StreamSpec(name="WORK_MERGE", subjects=(subjects.WORK_MERGE,), retention=Retention.WORK_QUEUE)
DEAD_LETTERS = StreamSpec(
    name="DEAD_LETTERS",
    subjects=(subjects.DEAD_LETTERS,),
    retention=Retention.LIMITS,
    max_messages=100_000,
)

STREAMS = (EVENTS, WORK_PLAN, WORK_INFER, WORK_MERGE, DEAD_LETTERS)

PLAN = QueueSpec(name="plan", stream="WORK_PLAN", durable="plan", subject=subjects.WORK_PLAN)
MERGE = QueueSpec(name="merge", stream="WORK_MERGE", durable="merge", subject=subjects.WORK_MERGE)


def infer(model_digest: str, engine: str) -> QueueSpec:
    """Return the queue of one model's tile batches for one wish of an engine ("auto" or a name).

    Those of models and wishes that are no longer used go by themselves. Raises: InvalidRequest for what is not a
    digest, or cannot be a name.
    """
    return QueueSpec(
        name="infer",
        stream="WORK_INFER",
        durable=f"infer-{subjects.digest12(model_digest)}-{engine}",
        subject=subjects.work_infer(model_digest, engine),
        max_ack_pending=256,
        inactive_s=_DAY_S,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """All streams, and the queues that exist from the start (those of models come on demand)."""

    streams: tuple[StreamSpec, ...] = STREAMS
    queues: tuple[QueueSpec, ...] = (PLAN, MERGE)


TOPOLOGY = Topology()
