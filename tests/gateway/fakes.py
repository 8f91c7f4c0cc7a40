"""Upstreams with a script, a gateway around them that listens for real, and tenants that watch."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from contract.codes import Ending
from gateway.app import create_app
from gateway.configuration import (
    AnyUpstream,
    Configuration,
    HealthSettings,
    ListenSettings,
    ModelSettings,
    TritonSettings,
    VersionSettings,
)
from gateway.gateway_errors import AuditUnavailable, AuthenticationError
from gateway.generation import Delta, Job
from gateway.interfaces import AuditRecord, AuditState, CallRecord, Principal, Ticket
from gateway.open_access import LOCAL
from gateway.server import config, listen

Step = Delta | Exception | float | threading.Event
"""A piece, an error, a pause in seconds, or one until a test sets the event."""

HANG = 3600.0

_PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For clients that speak no TLS: reading the authorities' certificates takes longer than a test."""


def words(*texts: str, index: int = 0, reason: Ending = "stop") -> list[Step]:
    """An answer of some pieces, one token each."""
    last = len(texts) - 1
    return [
        Delta(index, text, reason if place == last else "", 1, prompt_tokens=5)
        for place, text in enumerate(texts)
    ]


@dataclass
class FakeUpstream:
    """Does what its script says, for each job; a probe gets a token unless told otherwise."""

    script: Sequence[Step] | Callable[[Job], Sequence[Step]] = field(
        default_factory=lambda: words("Hello", " there", ".")
    )
    probe_error: Exception | None = None
    jobs: list[Job] = field(default_factory=list)
    probes: list[Job] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    stops: bool = False
    running: int = 0
    most_running: int = 0

    async def generate(self, job: Job) -> AsyncGenerator[Delta, None]:
        if job.request_id.startswith("probe-"):
            self.probes.append(job)
            if self.probe_error is not None:
                raise self.probe_error
            yield Delta(text="x", finish_reason="length", output_tokens=1, prompt_tokens=1)
            return
        self.jobs.append(job)
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        how = "cancelled"
        try:
            for step in self.script(job) if callable(self.script) else self.script:
                if isinstance(step, float):
                    await asyncio.sleep(step)
                elif isinstance(step, threading.Event):
                    while not step.is_set():
                        await asyncio.sleep(0.005)
                elif isinstance(step, Exception):
                    try:
                        raise step
                    finally:
                        del step  # it has this frame
                else:
                    # A copy: the gateway adds to pieces that wait.
                    yield Delta(**vars(step))
                    await asyncio.sleep(0)
            how = "done"
        except Exception as error:
            how = type(error).__name__
            raise
        finally:
            self.running -= 1
            self.ended.append(how)

    async def stop(self, job: Job) -> bool:
        self.stopped.append(job.request_id)
        return self.stops

    async def aclose(self) -> None:
        return None


def configuration(
    upstreams: Sequence[str | AnyUpstream] = ("a",),
    models: Mapping[str, ModelSettings] | None = None,
    **more: Any,
) -> Configuration:
    """One model, `demo`, on some Tritons, probed often."""
    settings = tuple(
        TritonSettings(name=each, address="localhost:1") if isinstance(each, str) else each
        for each in upstreams
    )
    names = tuple(each.name for each in settings if each.kind == "triton")
    version = VersionSettings(name="demo-1", upstreams=names)
    values: dict[str, Any] = {
        "listen": ListenSettings(port=0, shutdown_grace_s=0),
        "health": HealthSettings(interval_s=0.05, timeout_s=20, open_s=0.05, max_open_s=0.1),
        **more,
    }
    return Configuration(
        upstreams=settings,
        models=dict(models or {"demo": ModelSettings(versions=(version,))}),
        **values,
    )


@dataclass
class Running:
    """A gateway that listens."""

    app: FastAPI
    port: int
    loop: asyncio.AbstractEventLoop

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, **more: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30, trust_env=False, verify=_PLAIN, **more)

    def post(self, path: str, body: Any, **more: Any) -> httpx.Response:
        with self.client() as client:
            return client.post(path, json=body, **more)

    def metric(self, name: str, **labels: str) -> float:
        value = self.app.state.gateway.metrics.registry.get_sample_value(name, labels)
        return 0.0 if value is None else float(value)


@contextmanager
def running(
    app: FastAPI, settings: ListenSettings | None = None, *, ready_or_not: bool = False
) -> Iterator[Running]:
    """Serve an application as `python -m gateway` does, in a thread."""
    settings = settings or ListenSettings(port=0, shutdown_grace_s=0)
    listener = listen(settings)
    server = uvicorn.Server(config(app, settings))
    started = threading.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        task = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started and not task.done():
            await asyncio.sleep(0.005)
        while not task.done() and not (ready_or_not or _all_proven(app)):
            await asyncio.sleep(0.005)
        started.set()
        await task

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    try:
        assert started.wait(20), "the gateway did not start"
        yield Running(app, listener.getsockname()[1], loops[0])
    finally:
        server.should_exit = True
        thread.join(20)


@contextmanager
def serving(
    upstreams: Mapping[str, FakeUpstream] | FakeUpstream | None = None,
    settings: Configuration | None = None,
    *,
    ready: bool = True,
    **more: Any,
) -> Iterator[Running]:
    """A gateway before fakes."""
    if upstreams is None or isinstance(upstreams, FakeUpstream):
        upstreams = {"a": upstreams or FakeUpstream()}
    settings = settings or configuration(tuple(upstreams))
    app = create_app(settings, upstreams=upstreams, **more)
    with running(app, settings.listen, ready_or_not=not ready) as gateway:
        yield gateway


def _all_proven(app: FastAPI) -> bool:
    return all(replica.available for replica in app.state.fleet)


@dataclass
class Keys:
    """An authenticator that knows some keys."""

    principals: Mapping[str, Principal] = field(default_factory=lambda: {"good": LOCAL})

    async def authenticate(self, authorization: str | None) -> Principal:
        principal = self.principals.get((authorization or "").removeprefix("Bearer "))
        if principal is None:
            raise AuthenticationError("no such key")
        return principal


@dataclass
class Ledger:
    """A limiter and an audit log that remember the order of what they are told."""

    events: list[tuple[Any, ...]] = field(default_factory=list)
    records: list[AuditRecord] = field(default_factory=list)
    calls: list[CallRecord] = field(default_factory=list)
    refuse: Exception | None = None
    full: bool = False
    durable_after_s: float = 0.0

    async def reserve(
        self,
        principal: Principal,
        model: str,
        prompt_tokens: int,
        max_tokens: int,
        answers: int = 1,
    ) -> _Reservation:
        if self.refuse is not None:
            raise self.refuse
        self.events.append(("reserve", model, max_tokens))
        return _Reservation(self)

    @property
    def state(self) -> AuditState:
        return "unavailable" if self.full else "written"

    async def check(self) -> None:
        if self.full:
            raise AuditUnavailable("the audit's disk is full")

    def begin(self, request_id: str, time: float, principal: Principal, model: str) -> Ticket:
        self.events.append(("begin", request_id))
        return Ticket(len(self.events), asyncio.sleep(self.durable_after_s))

    async def append(self, record: AuditRecord, ticket: Ticket) -> None:
        if self.full:
            raise AuditUnavailable("the audit's disk is full")
        self.events.append(("append", record.request_id))
        self.records.append(record)

    def call(self, record: CallRecord) -> None:
        self.calls.append(record)


@dataclass
class _Reservation:
    ledger: Ledger

    @property
    def headers(self) -> Mapping[str, str]:
        return {"x-ratelimit-remaining-requests": "7"}

    async def settle(self, prompt_tokens: int, output_tokens: int) -> None:
        self.ledger.events.append(("settle", prompt_tokens, output_tokens))


CHAT: dict[str, Any] = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}]}
STREAM: dict[str, Any] = {**CHAT, "stream": True}
