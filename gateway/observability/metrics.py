"""Prometheus' metrics of the gateway, by tenant class and model.

Who a tenant is doesn't become a label: tenants are many, and the audit knows them. A model's label
is its name in the configuration, never a client's own text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from gateway.interfaces import TenantClass

_LATENCY_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
_TOKEN_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 5)
_LABELS = ("tenant_class", "model")

Reading = Callable[[], Mapping[str, float]]
"""Tells the values of a gauge, by the value of its label."""


class RequestLabels(NamedTuple):
    """What all of a request's metrics are told apart by."""

    tenant_class: TenantClass
    model: str


class Metrics:
    """The metrics of one gateway.

    Attributes:
        registry: What `/metrics` shows.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._ttft = self._histogram("time_to_first_token", "Arrival to first piece", _LATENCY_S)
        self._itl = self._histogram("time_between_tokens", "Between two pieces", _TOKEN_S)
        self._duration = self._histogram("request_duration", "Arrival to end", _LATENCY_S)
        self._queue = self._histogram("queue_time", "Wait for a place at a replica", _LATENCY_S)
        self._requests = self._counter("requests", "Requests that ended, by status", "status")
        self._tokens = self._counter("tokens", "Tokens, told and charged", "direction")
        self._errors = self._counter("errors", "Requests that failed, by cause", "cause")
        self._calls = Counter(
            "trireme_gateway_calls",
            "Requests that no model was found for: refused before, or only looking something up",
            ("route", "status", "code"),
            registry=self.registry,
        )
        self._fallbacks = self._counter("fallbacks", "Sent to another provider", "cause")
        self._retries = Counter(
            "trireme_gateway_retries",
            "Requests that a replica could not answer and another was asked",
            ("upstream",),
            registry=self.registry,
        )
        # Children are looked up once: the lookup costs more than the observation.
        self._itl_of = lru_cache(1024)(self._itl.labels)

    def watch(self, name: str, text: str, label: str, read: Reading) -> None:
        """Show what others know: a gauge whose readings are asked for when somebody looks.

        Args:
            name: Its name, after ``trireme_gateway_``.
            text: What it counts.
            label: What its readings are told apart by.
            read: The readings, by that label's value.
        """
        self.registry.register(_Gauges(f"trireme_gateway_{name}", text, label, read))

    def began(self, labels: RequestLabels, ttft_s: float) -> None:
        """The first piece of an answer is there."""
        self._ttft.labels(*labels).observe(ttft_s)

    def token(self, labels: RequestLabels, since_s: float) -> None:
        """Another piece is there, so long after the one before."""
        self._itl_of(*labels).observe(since_s)

    def fell_back(self, labels: RequestLabels, cause: str) -> None:
        """Another provider is asked."""
        self._fallbacks.labels(*labels, cause).inc()

    def retried(self, upstream: str) -> None:
        """An upstream couldn't answer, and nothing was lost by it."""
        self._retries.labels(upstream).inc()

    def refused(self, labels: RequestLabels, status: int, cause: str) -> None:
        """A request wasn't taken in."""
        self._requests.labels(*labels, str(status)).inc()
        self._errors.labels(*labels, cause).inc()

    def called(self, route: str, status: int, code: str) -> None:
        """A request ended that no model was found for, or that generated nothing."""
        self._calls.labels(route, str(status), code).inc()

    def ended(
        self,
        labels: RequestLabels,
        *,
        status: int,
        cause: str | None,
        duration_s: float,
        queue_s: float,
        tokens: Mapping[str, int],
    ) -> None:
        """A request is over; `cause` is why it failed, None where it didn't."""
        self._requests.labels(*labels, str(status)).inc()
        self._duration.labels(*labels).observe(duration_s)
        self._queue.labels(*labels).observe(queue_s)
        for direction, count in tokens.items():
            self._tokens.labels(*labels, direction).inc(count)
        if cause is not None:
            self._errors.labels(*labels, cause).inc()

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        name = f"trireme_gateway_{name}_seconds"
        return Histogram(name, text, _LABELS, buckets=buckets, registry=self.registry)

    def _counter(self, name: str, text: str, label: str) -> Counter:
        name = f"trireme_gateway_{name}"
        return Counter(name, text, (*_LABELS, label), registry=self.registry)


class _Gauges(Collector):
    """A gauge for each value of a label, read off when somebody asks."""

    def __init__(self, name: str, text: str, label: str, read: Reading) -> None:
        self._name = name
        self._text = text
        self._label = label
        self._read = read

    def collect(self) -> Iterable[GaugeMetricFamily]:
        family = GaugeMetricFamily(self._name, self._text, labels=[self._label])
        for value, reading in self._read().items():
            family.add_metric([value], float(reading))
        return [family]
