"""The process: a socket, an event loop, an HTTP server.

Promises: the port is bound before anything else starts; after SIGTERM running requests have ten seconds.
"""

from __future__ import annotations

import socket
from contextlib import ExitStack

from microtome.errors import ConfigurationError
from services.gateway.settings import GatewaySettings

# What knocks before the application is loaded waits.
_BACKLOG = 512


def serve() -> None:
    """Run the gateway of this environment. Raises `ConfigurationError`, `Unavailable`."""
    settings = GatewaySettings.from_environment()
    with ExitStack() as stack:
        listener = stack.enter_context(_bound(settings.gateway_host, settings.gateway_port))
        # Imported here: what cannot start should say so at once, and these take a while.
        from microtome.garbage import settled
        from microtome.telemetry import logging as logs
        from microtome.telemetry import tracing
        from microtome.telemetry.metrics import serve_metrics
        from services.gateway.serving import listen
        from services.gateway.serving import server as http_server
        from services.gateway.trace import GatewayMetrics
        from services.gateway.wiring import create_app

        logs.setup("gateway", settings.log_level)
        traces = tracing.setup("gateway")
        stack.callback(traces.shutdown)
        metrics = GatewayMetrics()
        stack.callback(serve_metrics(settings.metrics_port, metrics.registry, settings.metrics_host).close)
        server = http_server(create_app(settings, metrics), loop="uvloop")
        listen(listener)
        stack.enter_context(settled())
        server.run(sockets=[listener])
        if not server.started:
            raise ConfigurationError("The gateway did not start; the log says why.")


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"GATEWAY_HOST {host} and GATEWAY_PORT {port} cannot be used ({error.strerror or error}); "
            "choose another port or stop what uses it."
        ) from error
    return listener
