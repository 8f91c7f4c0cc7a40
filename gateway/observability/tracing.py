"""OpenTelemetry traces with the GenAI conventions, from the client's own trace into Triton's.

A client's `traceparent` is the parent of the gateway's span, and the gateway's span for the
upstream is the parent of what Triton records (`--trace-config mode=opentelemetry`). Without an
endpoint nothing is recorded, and a client's trace context goes on to the upstream as it came.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gateway.configuration import TracingSettings, UpstreamSettings
from gateway.generation import Generation

_PROPAGATOR = TraceContextTextMapPropagator()
"""Of a client's headers those of its trace alone: of ``baggage``, the default's other one, what is
wrong is written into the log, and what isn't is sent on."""


class RequestSpan:
    """The span of one request, or of one try at an upstream."""

    def __init__(self, span: Span, context: Context) -> None:
        self._span = span
        self.context = context

    def set(self, **attributes: str | int | float | list[str] | None) -> None:
        """Add attributes, `gen_ai_usage_input_tokens` for ``gen_ai.usage.input_tokens``."""
        for name, value in attributes.items():
            if value is not None:
                self._span.set_attribute(_NAMES[name], value)

    def failed(
        self, error: BaseException, kind: str | None = None, *, is_client_s: bool = False
    ) -> None:
        """It didn't end well. The message stays out: it may quote the request.

        What is the client's own doing is no error of a server's span, by the HTTP conventions.
        """
        self._span.set_attribute("error.type", kind or type(error).__name__)
        if not is_client_s:
            self._span.set_status(Status(StatusCode.ERROR))

    def headers(self) -> dict[str, str]:
        """The trace context for whoever is asked next."""
        headers: dict[str, str] = {}
        _PROPAGATOR.inject(headers, self.context)
        return headers

    def end(self) -> None:
        """It is over."""
        self._span.end()


_NAMES = {
    name.replace(".", "_"): name
    for name in (
        "gen_ai.response.model",
        "gen_ai.response.finish_reasons",
        "gen_ai.usage.input_tokens",
        "gen_ai.usage.output_tokens",
        "trireme.served_by",
        "trireme.time_to_first_token_s",
        "trireme.queue_time_s",
        "http.response.status_code",
    )
}


class Tracing:
    """Makes spans."""

    def __init__(self, settings: TracingSettings, exporter: SpanExporter | None = None) -> None:
        """Record what the settings say.

        Args:
            settings: Where to, and how much.
            exporter: In place of the settings' endpoint.
        """
        if exporter is None and settings.endpoint is not None:
            exporter = OTLPSpanExporter(endpoint=settings.endpoint)
        self._provider: TracerProvider | None = None
        self._tracer: trace.Tracer = trace.NoOpTracer()
        if exporter is not None:
            self._provider = TracerProvider(
                resource=Resource.create({"service.name": settings.service_name}),
                sampler=ParentBased(TraceIdRatioBased(settings.sample_ratio)),
            )
            self._provider.add_span_processor(BatchSpanProcessor(exporter))
            self._tracer = self._provider.get_tracer("trireme.gateway")

    def request(
        self, operation: str, model: str, request_id: str, headers: Mapping[str, str]
    ) -> RequestSpan:
        """The span of a request that has come; its caller ends it."""
        parent = _PROPAGATOR.extract(headers)
        span = self._tracer.start_span(
            f"{operation} {model}",
            context=parent,
            kind=SpanKind.SERVER,
            attributes={
                "gen_ai.operation.name": operation,
                "gen_ai.provider.name": "trireme",
                "gen_ai.request.model": model,
                "trireme.request_id": request_id,
            },
        )
        return RequestSpan(span, trace.set_span_in_context(span, parent))

    @contextmanager
    def upstream(
        self, generation: Generation, settings: UpstreamSettings, model: str, context: Context
    ) -> Iterator[RequestSpan]:
        """The span of one try at an upstream."""
        operation = generation.prompt.operation
        span = self._tracer.start_span(
            f"{operation} {settings.name}",
            context=context,
            kind=SpanKind.CLIENT,
            attributes={
                "gen_ai.operation.name": operation,
                "gen_ai.provider.name": "trireme",
                "gen_ai.request.model": model,
                "gen_ai.request.max_tokens": generation.parameters.max_tokens,
                "server.address": settings.name,
            },
        )
        try:
            yield RequestSpan(span, trace.set_span_in_context(span, context))
        finally:
            span.end()

    def close(self) -> None:
        """Send what is left."""
        if self._provider is not None:
            self._provider.shutdown()
