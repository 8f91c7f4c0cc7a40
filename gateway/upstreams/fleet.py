"""All upstreams as the gateway sees them now: which are well, how busy each is, which are drained.

A prober for each Triton generates a token where none came by itself for a while: a server whose
port is open and whose engine is stuck isn't well.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import aclosing

import anyio

from contract.errors import (
    RequestTimeoutError,
    ServerBrokenError,
    ServerBusyError,
    TriremeError,
)
from contract.parameters import GenerationParameters
from gateway.configuration import HealthSettings, TritonSettings, UpstreamSettings
from gateway.generation import Generation, Job, Texts
from gateway.interfaces import TenantClass
from gateway.upstreams.base import Upstream
from gateway.upstreams.circuit import Circuit

_log = logging.getLogger("gateway.fleet")
_MIN_PROBE_PAUSE_S = 0.1
_LAST_PIECE_S = 2.0
"""How long a stream may be silent once its replica is known to be lost."""


class Replica:
    """One upstream and what is known of it.

    Attributes:
        settings: Its name, how much it may have at once, where it stands.
        upstream: What generates.
        circuit: Whether it is to be asked.
        drained: It gets nothing new; what runs there ends by itself.
        by_class: Sequences under way, by class.
        by_tenant: The same, by tenant.
        in_flight: All of them.
        heard_s: When it last had something to say, to whomever, on the clock of `time.monotonic`.
        unanswered: Scopes of requests that have got nothing yet and may begin again elsewhere.
        answering: Scopes of streams that have begun.
    """

    def __init__(
        self,
        settings: UpstreamSettings,
        upstream: Upstream,
        health: HealthSettings,
        *,
        probe_model: str | None,
    ) -> None:
        """Know an upstream; `probe_model` is what a probe asks there, None where none is sent."""
        self.settings = settings
        self.upstream = upstream
        self.circuit = Circuit(health, probed=probe_model is not None)
        self.drained = False
        self.by_class: Counter[TenantClass] = Counter()
        self.by_tenant: Counter[str] = Counter()
        self.in_flight = 0
        self.heard_s = float("-inf")
        self.unanswered: set[anyio.CancelScope] = set()
        self.answering: set[anyio.CancelScope] = set()
        self.probe_model = probe_model
        self._probe_timeout_s = health.timeout_s
        self._told = ""

    @property
    def name(self) -> str:
        """What it is called."""
        return self.settings.name

    @property
    def capacity(self) -> int:
        """Sequences that it may have at once."""
        return self.settings.max_concurrent

    @property
    def is_fair(self) -> bool:
        """Whether it has one sequence give way to another, by class and by tenant."""
        return isinstance(self.settings, TritonSettings) and self.settings.priorities

    @property
    def available(self) -> bool:
        """Whether it may get requests, if it has room."""
        return not self.drained and self.circuit.allows(time.monotonic())

    def enter(self, tenant_class: TenantClass, tenant: str = "", sequences: int = 1) -> None:
        """Count a request's sequences in."""
        self.by_class[tenant_class] += sequences
        self.by_tenant[tenant] += sequences
        self.in_flight += sequences

    def leave(self, tenant_class: TenantClass, tenant: str = "", sequences: int = 1) -> None:
        """Count them out."""
        self.by_class[tenant_class] -= sequences
        self.by_tenant[tenant] -= sequences
        if not self.by_tenant[tenant]:
            del self.by_tenant[tenant]
        self.in_flight -= sequences

    def fail(self, error: Exception, *, probed: bool = False) -> None:
        """Tell the circuit of a failure that isn't the request's own.

        Where that says that the replica is lost, nobody waits for it: who has got nothing begins
        again elsewhere at once, and a stream that has begun ends unless its next piece comes soon.

        Args:
            error: What was raised.
            probed: It was a probe's, which tells more than a request's.
        """
        lost = isinstance(error, ServerBrokenError)
        self.circuit.fail(time.monotonic(), lost=lost)
        if not lost and (self.circuit.closed or not probed):
            return
        for scope in tuple(self.unanswered):
            scope.cancel()
        patience_s = anyio.current_time() + _LAST_PIECE_S
        for scope in self.answering:
            scope.deadline = min(scope.deadline, patience_s)

    async def probe(self) -> None:
        """Generate one token and tell the circuit."""
        assert self.probe_model is not None, "only what has a model to probe is probed"
        generation = Generation(
            request_id=f"probe-{self.name}",
            prompt=Texts.of(("Hi",)),  # not every checkpoint has a chat template
            parameters=GenerationParameters(max_tokens=1),
            stream=True,  # as clients do: a server that can't is of no use here
            tenant_class="interactive",
            policy=None,
            is_probe=True,
        )
        job = Job(generation, generation.request_id, self.probe_model, self._probe_timeout_s)
        asked_s = time.monotonic()
        try:
            with anyio.fail_after(self._probe_timeout_s):
                async with aclosing(self.upstream.generate(job)) as pieces:
                    async for _ in pieces:
                        pass
        except ServerBusyError:
            pass  # full is not ill: what runs there shows whether it goes on
        except (TriremeError, TimeoutError) as error:
            late = isinstance(error, TimeoutError | RequestTimeoutError)
            if not (late and self.circuit.succeeded_since(asked_s)):
                self._tell_why(error)
                self.fail(error, probed=True)  # else it is busy: others got their first tokens
        else:
            self.heard_s = time.monotonic()
            self.circuit.succeed(self.heard_s)
            self._told = ""

    def _tell_why(self, error: Exception) -> None:
        """Log why a probe failed, once for each reason."""
        why = str(error) or type(error).__name__
        if why != self._told:
            self._told = why
            _log.warning("a probe failed", extra={"upstream": self.name, "error": why})


class Fleet:
    """The replicas by name, and the tasks that watch them."""

    def __init__(self, replicas: Mapping[str, Replica]) -> None:
        self._replicas = dict(replicas)
        self._probers: list[asyncio.Task[None]] = []
        self.on_change: Callable[[], None] = lambda: None

    def __getitem__(self, name: str) -> Replica:
        return self._replicas[name]

    def __iter__(self) -> Iterator[Replica]:
        return iter(self._replicas.values())

    def drain(self, name: str, drained: bool = True) -> None:
        """Send a replica nothing new, or again.

        Raises:
            KeyError: There is none of that name.
        """
        self._replicas[name].drained = drained
        self.on_change()

    def start(self) -> None:
        """Begin to watch."""
        self._probers = [
            asyncio.create_task(self._watch(replica), name=f"probe {replica.name}")
            for replica in self._replicas.values()
            if replica.probe_model is not None
        ]

    async def aclose(self) -> None:
        """Stop watching and close every connection."""
        for prober in self._probers:
            prober.cancel()
        await asyncio.gather(*self._probers, return_exceptions=True)
        for replica in self._replicas.values():
            await replica.upstream.aclose()

    async def _watch(self, replica: Replica) -> None:
        while True:
            due_s = replica.circuit.probe_due_s(time.monotonic())
            if due_s > 0:
                await asyncio.sleep(min(due_s, 1.0))  # a failure may have opened it meanwhile
                continue
            before = replica.circuit.closed
            await replica.probe()
            if replica.circuit.closed != before:
                self.on_change()
            await asyncio.sleep(_MIN_PROBE_PAUSE_S)
