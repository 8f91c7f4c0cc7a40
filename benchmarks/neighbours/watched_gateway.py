"""The gateway for tenants who are whatever their key says, with a watch on its event loop.

    python -m benchmarks.neighbours.watched_gateway 127.0.0.1:8001 8080

``GET /held`` says for how long the event loop did nothing else since it was asked last.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from fastapi import FastAPI

from benchmarks.neighbours.attacks import STRANGER
from gateway.app import create_app
from gateway.configuration import Configuration, ListenSettings
from gateway.gateway_errors import AuthenticationError
from gateway.interfaces import Principal
from gateway.open_access import LOCAL
from gateway.server import serve

_BEAT_S = 0.002


class _Keys:
    """Takes a key for its tenant's name, except for a stranger's."""

    async def authenticate(self, authorization: str | None) -> Principal:
        name = (authorization or "").removeprefix("Bearer ")
        if name == STRANGER:
            raise AuthenticationError("no such key")
        return replace(LOCAL, tenant=name, key_id=name)


class Watch:
    """How long the loop's turns are, seen from a timer that is due every two milliseconds.

    Attributes:
        wall_s: The longest, on the clock: the machine may have done something else meanwhile.
        processor_s: The most processor time that the loop's thread had in one.
    """

    def __init__(self) -> None:
        self.wall_s = self.processor_s = 0.0

    async def run(self) -> None:
        """Watch until it is cancelled."""
        while True:
            wall_s, processor_s = time.perf_counter(), time.thread_time()
            await asyncio.sleep(_BEAT_S)
            self.wall_s = max(self.wall_s, time.perf_counter() - wall_s - _BEAT_S)
            self.processor_s = max(self.processor_s, time.thread_time() - processor_s)

    def take(self) -> dict[str, float]:
        """Both in milliseconds, and begin anew."""
        taken = {"wall_ms": self.wall_s * 1e3, "processor_ms": self.processor_s * 1e3}
        self.wall_s = self.processor_s = 0.0
        return taken


def watched(triton: str, port: int) -> tuple[FastAPI, Configuration]:
    """The application, and what it is told."""
    configuration = Configuration.for_triton(triton).model_copy(
        update={"listen": ListenSettings(port=port)}
    )
    app = create_app(configuration, authenticator=_Keys())
    watch = Watch()
    app.get("/held")(watch.take)
    lifespan = app.router.lifespan_context

    @asynccontextmanager
    async def watched_lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with lifespan(app):
            task = asyncio.create_task(watch.run())
            yield
            task.cancel()

    app.router.lifespan_context = watched_lifespan
    return app, configuration


def main(arguments: Sequence[str]) -> None:
    """Serve."""
    triton, port = arguments
    app, configuration = watched(triton, int(port))
    serve(app, configuration.listen, "WARNING")


if __name__ == "__main__":
    main(sys.argv[1:])
