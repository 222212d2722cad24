"""Ports of the embedded stack.

Promises: every port can be set; a taken port is an error that names the port, the setting
that changes it and, where the system tells, the process that holds it.
Refuses: to move to another port in silence.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import psutil

from microtome.errors import ConfigurationError

LOOPBACK = "127.0.0.1"


class PortTaken(ConfigurationError):
    """A port that the stack needs is held by another process."""

    code = "port-taken"

    def __init__(self, port: int, purpose: str, setting: str, holder: str | None) -> None:
        by = f" by {holder}" if holder else ""
        super().__init__(
            f"Port {port} ({purpose}) is already taken{by}. Set {setting} to a free port, or stop what holds it."
        )
        self.port = port
        self.setting = setting


@dataclass(frozen=True, slots=True)
class Ports:
    """One TCP port for each listener of the stack.

    `metrics` maps a service instance to the port of its /metrics page. `nats_monitoring` is
    the HTTP monitoring port of NATS, `None` for off.
    """

    gateway: int = 8080
    nats: int = 14222
    postgres: int = 15432
    nats_monitoring: int | None = None
    metrics: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], services: Sequence[str]) -> Ports:
        """Read GATEWAY_PORT, NATS_PORT, POSTGRES_PORT, NATS_MONITORING_PORT and METRICS_BASE_PORT.

        Raises ConfigurationError for a value that is not a port.
        """
        base = _port(environment, "METRICS_BASE_PORT", 19100)
        return cls(
            gateway=_port(environment, "GATEWAY_PORT", 8080),
            nats=_port(environment, "NATS_PORT", 14222),
            postgres=_port(environment, "POSTGRES_PORT", 15432),
            nats_monitoring=_port(environment, "NATS_MONITORING_PORT", 0) or None,
            metrics={name: base + index for index, name in enumerate(services)},
        )

    @classmethod
    def free(cls, services: Sequence[str]) -> Ports:
        """Pick ports that nobody listens on now; for tests, where many stacks run side by side."""
        chosen = free_ports(3 + len(services))
        return cls(
            gateway=chosen[0],
            nats=chosen[1],
            postgres=chosen[2],
            metrics=dict(zip(services, chosen[3:], strict=True)),
        )

    def require_free(self, gateway_host: str = LOOPBACK) -> None:
        """Raise PortTaken for the first port somebody else listens on."""
        wanted = [
            (gateway_host, self.gateway, "gateway", "GATEWAY_PORT"),
            (LOOPBACK, self.nats, "NATS", "NATS_PORT"),
            (LOOPBACK, self.postgres, "Postgres", "POSTGRES_PORT"),
        ]
        if self.nats_monitoring is not None:
            wanted.append((LOOPBACK, self.nats_monitoring, "NATS monitoring", "NATS_MONITORING_PORT"))
        wanted.extend(
            (LOOPBACK, port, f"metrics of {name}", "METRICS_BASE_PORT") for name, port in self.metrics.items()
        )
        for host, port, purpose, setting in wanted:
            if not is_free(port, host):
                raise PortTaken(port, purpose, setting, holder_of(port))


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Whether a listener could be opened on `host:port` now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_ports(count: int) -> tuple[int, ...]:
    """`count` different ports that are free now.

    They come from below the range the kernel gives to outgoing connections, so that none is
    lost to a client between this call and the server's start.
    """
    chosen: list[int] = []
    while len(chosen) < count:
        port = random.SystemRandom().randrange(20_000, 32_000)
        if port not in chosen and is_free(port):
            chosen.append(port)
    return tuple(chosen)


def holder_of(port: int) -> str | None:
    """Who listens on `port`, as "name (pid 123)"; None where the system does not say."""
    try:
        for connection in psutil.net_connections(kind="tcp"):
            listens = connection.status == psutil.CONN_LISTEN and bool(connection.laddr)
            if listens and tuple(connection.laddr)[-1] == port and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except (psutil.Error, OSError):
        return None
    return None


def _port(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, "").strip()
    if not text:
        return default
    if not text.isdecimal() or not 0 <= int(text) <= 65535:
        raise ConfigurationError(f"{name} must be a port number between 0 and 65535, not {text!r}.")
    return int(text)
