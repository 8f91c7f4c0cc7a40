"""The gateway as a process: sockets, TLS, metrics, and an end that lets answers finish."""

from __future__ import annotations

import gc
import logging
import socket
import ssl
import sys

import uvicorn
from fastapi import FastAPI
from prometheus_client import start_http_server

from gateway.api.protocol import BoundedProtocol
from gateway.api.socket_protocol import BoundedSocketProtocol
from gateway.configuration import ListenSettings
from gateway.exchange import Gateway
from gateway.observability.logs import configure

_log = logging.getLogger("gateway.server")
_SWITCH_S = 0.001
_GARBAGE = (700, 2, 200)
"""New things until the newest are searched, such searches until those that outlived one are, and
of these until all are; (700, 10, 10) is Python's, and took 11 to 18 ms for the second."""
_SEND_BUFFER_BYTES = 256 << 10
"""What the kernel holds for a client that reads slowly, beside what the mailbox does."""


def serve(app: FastAPI, settings: ListenSettings, log_level: str = "INFO") -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        OSError: An address can't be bound.
    """
    configure(log_level)
    _let_nothing_hold_up_the_loop()
    gateway: Gateway = app.state.gateway
    listener = listen(settings)
    if settings.metrics_port is not None:
        start_http_server(settings.metrics_port, settings.metrics_host, gateway.metrics.registry)
    server = uvicorn.Server(config(app, settings))
    host, port = listener.getsockname()[:2]
    scheme = "http" if settings.tls is None else "https"
    _log.info("listening", extra={"address": f"{scheme}://{host}:{port}"})
    server.run(sockets=[listener])


def _let_nothing_hold_up_the_loop() -> None:
    """Keep short for how long a thread, or the search for garbage, stops the event loop.

    What is there at the start stays to the end, and isn't looked through for garbage: that took
    40 ms. What requests leave needs no search (`tests/gateway/test_garbage.py`), so that the search
    looks often at the few newest things, and seldom at all. A thread that reads a large body gives
    Python's lock up within a millisecond.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GARBAGE)
    sys.setswitchinterval(_SWITCH_S)


def config(app: FastAPI, settings: ListenSettings) -> uvicorn.Config:
    """How uvicorn runs the application."""
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=BoundedProtocol,
        ws=BoundedSocketProtocol,
        ws_max_size=settings.max_body_bytes,
        ws_per_message_deflate=False,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_grace_s)),
        ssl_certfile=None if settings.tls is None else settings.tls.certificate,
        ssl_keyfile=None if settings.tls is None else settings.tls.key,
        ssl_version=ssl.PROTOCOL_TLS_SERVER,
    )


def listen(settings: ListenSettings) -> socket.socket:
    """The listening socket; what is set on it holds for its connections.

    A client that takes nothing of what waits for it is cut off by the kernel, which knows it better
    than a timer in here could and costs nothing for those who read.

    Raises:
        OSError: The address can't be bound.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        timeout_ms = round(settings.slow_client_timeout_s * 1000)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind((settings.host, settings.port))
        listener.listen(1024)
    except OSError:
        listener.close()
        raise
    return listener
