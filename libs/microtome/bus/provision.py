"""Making a NATS server agree with the topology.

Promises: idempotent; afterwards every stream and queue exists and is exactly as asked, as the
server itself reports it (servers silently ignore settings that they do not know).
Refuses: servers older than 2.10, servers without JetStream, streams whose retention would have
to change: ConfigurationError that says what to do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import nats.errors
from nats.aio.client import Client
from nats.js import api
from nats.js.client import JetStreamContext
from nats.js.errors import APIError, NotFoundError, ServiceUnavailableError

from microtome.bus.topology import TOPOLOGY, QueueSpec, Retention, StreamSpec, Topology
from microtome.errors import ConfigurationError, Unavailable

OLDEST_SERVER = (2, 10)


def check_version(version: str) -> None:
    """Refuse a server version below 2.10. Raises: ConfigurationError."""
    numbers = re.match(r"v?(\d+)\.(\d+)", version)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < OLDEST_SERVER:
        wanted = ".".join(map(str, OLDEST_SERVER))
        raise ConfigurationError(f"NATS {version} is too old: Microtome needs {wanted} or newer.")


async def ensure_topology(client: Client, topology: Topology = TOPOLOGY) -> None:
    """Create or update every stream and queue of `topology`.

    Raises: ConfigurationError, Unavailable (the server does not answer; try again).
    """
    server = client.connected_server_version
    check_version(f"{server.major}.{server.minor}.{server.patch}")
    js = client.jetstream()
    for stream in topology.streams:
        await ensure_stream(js, stream)
    for queue in topology.queues:
        await ensure_queue(js, queue)


async def ensure_stream(js: JetStreamContext, spec: StreamSpec) -> None:
    """Create or update one stream. Raises: ConfigurationError, Unavailable."""
    limits = spec.retention is Retention.LIMITS
    asked = api.StreamConfig(
        name=spec.name,
        subjects=list(spec.subjects),
        retention=api.RetentionPolicy(spec.retention.value),
        storage=api.StorageType.FILE,
        discard=api.DiscardPolicy.OLD if limits else api.DiscardPolicy.NEW,
        max_age=spec.max_age_s,
        max_msgs=spec.max_messages,
        duplicate_window=spec.duplicate_window_s,
    )
    what = f"stream {spec.name}"
    try:
        try:
            await js.stream_info(spec.name)
        except NotFoundError:
            echoed = (await js.add_stream(asked)).config
        else:
            echoed = (await js.update_stream(asked)).config
    except ServiceUnavailableError as error:
        raise _no_jetstream(what, error) from error
    except APIError as error:
        raise _refused(what, error) from error
    except nats.errors.Error as error:
        raise _silent(what, error) from error
    _assert_echo(what, asked, echoed, _STREAM_FIELDS)


async def ensure_queue(js: JetStreamContext, spec: QueueSpec) -> None:
    """Create or update the durable consumer of one queue. Raises: ConfigurationError, Unavailable."""
    asked = api.ConsumerConfig(
        durable_name=spec.durable,
        deliver_policy=api.DeliverPolicy.ALL,
        ack_policy=api.AckPolicy.EXPLICIT,
        ack_wait=spec.ack_wait_s,
        max_deliver=-1,
        max_ack_pending=spec.max_ack_pending,
        filter_subject=spec.subject,
        inactive_threshold=spec.inactive_s or None,
    )
    what = f"queue {spec.durable} of {spec.stream}"
    try:
        echoed = (await js.add_consumer(spec.stream, asked)).config
    except ServiceUnavailableError as error:
        raise _no_jetstream(what, error) from error
    except NotFoundError as error:
        raise Unavailable(f"The {what} has no stream yet: {error}.") from error
    except APIError as error:
        raise _refused(what, error) from error
    except nats.errors.Error as error:
        raise _silent(what, error) from error
    _assert_echo(what, asked, echoed, _QUEUE_FIELDS)


_STREAM_FIELDS = (
    "name",
    "subjects",
    "retention",
    "storage",
    "discard",
    "max_age",
    "max_msgs",
    "duplicate_window",
)
_QUEUE_FIELDS = (
    "durable_name",
    "deliver_policy",
    "ack_policy",
    "ack_wait",
    "max_deliver",
    "max_ack_pending",
    "filter_subject",
    "inactive_threshold",
)


def _assert_echo(what: str, asked: object, echoed: object, fields: tuple[str, ...]) -> None:
    differing = differences(_read(asked, fields), _read(echoed, fields))
    if differing:
        raise ConfigurationError(f"The NATS server did not take the {what} as asked: {differing}.")


def _read(config: object, fields: tuple[str, ...]) -> dict[str, object]:
    return {name: getattr(config, name, None) for name in fields}


def differences(asked: Mapping[str, object], echoed: Mapping[str, object]) -> str:
    """Return what differs, as `name: asked X, got Y; …`; empty if nothing does."""
    return "; ".join(
        f"{name}: asked {value!r}, got {echoed.get(name)!r}"
        for name, value in asked.items()
        if echoed.get(name) != value
    )


def _no_jetstream(what: str, error: Exception) -> Unavailable:
    return Unavailable(f"JetStream does not serve the {what} (is the server started with -js?): {error}.")


def _refused(what: str, error: Exception) -> ConfigurationError:
    return ConfigurationError(
        f"The NATS server refuses the {what}: {error}. JetStream holds no facts: delete the "
        "stream (`nats stream rm`) and start again."
    )


def _silent(what: str, error: Exception) -> Unavailable:
    return Unavailable(f"The NATS server did not answer about the {what}: {error!r}.")
