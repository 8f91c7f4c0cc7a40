"""From perf_analyzer's profile export, every response's time, to the numbers that matter.

The names are the field's: time to first token (TTFT), inter-token latency (ITL), and request
latency, from sending a request to its last response. A streamed response is one step of the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from contract.models import EnsembleOutputs as Outputs


class ProfileError(Exception):
    """The profile export cannot be read, or has nothing to measure."""


@dataclass(frozen=True)
class Percentiles:
    """Percentiles of a duration, in milliseconds."""

    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, durations_ns: Sequence[int]) -> Percentiles:
        return cls(*(float(value) / 1e6 for value in np.percentile(durations_ns, (50, 90, 99))))


@dataclass(frozen=True)
class Level:
    """What was measured at one concurrency.

    Attributes:
        concurrency: Requests under way at any time.
        requests: Requests that were measured from first to last.
        output_tokens: Tokens in their answers.
        duration_s: The steady part of the run, over which the rates are taken.
        requests_per_s: Requests sent in that time, for each second.
        output_tokens_per_s: Tokens received in that time, for each second.
        time_to_first_token_ms: From sending a request to its first response.
        inter_token_latency_ms: Between two responses to one request; None where all had one.
        request_latency_ms: From sending a request to its last response.
    """

    concurrency: int
    requests: int
    output_tokens: int
    duration_s: float
    requests_per_s: float
    output_tokens_per_s: float
    time_to_first_token_ms: Percentiles
    inter_token_latency_ms: Percentiles | None
    request_latency_ms: Percentiles


@dataclass(frozen=True)
class _Request:
    sent_ns: int
    received_ns: tuple[int, ...]
    tokens: tuple[int, ...]

    @property
    def latency_ns(self) -> int:
        return self.received_ns[-1] - self.sent_ns


def measure(export: Any) -> Level:
    """Measure the one experiment of a profile export.

    perf_analyzer leaves out the requests that were under way when it stopped, so that their tokens
    are missing from the end of the record. What was under way earlier, by the longest request's
    time, is all there, and nothing was left unsent then: the rates are taken up to that moment.

    Args:
        export: What ``--profile-export-file`` wrote, decoded.

    Raises:
        ProfileError: The export is of another form, has no answered request, or is shorter than
            twice its longest request.
    """
    try:
        experiment = export["experiments"][0]
        concurrency = int(experiment["experiment"]["value"])
        requests = [_request(record) for record in experiment["requests"]]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ProfileError(f"this is no profile export of perf_analyzer: {error!r}") from error
    requests = [request for request in requests if request.received_ns]
    if not requests:
        raise ProfileError("perf_analyzer saw no answer")
    latencies_ns = [request.latency_ns for request in requests]
    start_ns = min(request.sent_ns for request in requests)
    end_ns = max(request.received_ns[-1] for request in requests)
    steady_end_ns = end_ns - max(latencies_ns)
    if steady_end_ns - start_ns < max(latencies_ns):
        raise ProfileError(
            f"the longest request took {max(latencies_ns) / 1e9:.1f} s of "
            f"{(end_ns - start_ns) / 1e9:.1f} s: measure for longer"
        )
    steady_s = (steady_end_ns - start_ns) / 1e9
    steady_tokens = sum(
        tokens
        for request in requests
        for received_ns, tokens in zip(request.received_ns, request.tokens, strict=True)
        if received_ns < steady_end_ns
    )
    steady_requests = sum(request.sent_ns < steady_end_ns for request in requests)
    gaps_ns = [gap for request in requests for gap in np.diff(request.received_ns).tolist()]
    return Level(
        concurrency=concurrency,
        requests=len(requests),
        output_tokens=sum(sum(request.tokens) for request in requests),
        duration_s=steady_s,
        requests_per_s=steady_requests / steady_s,
        output_tokens_per_s=steady_tokens / steady_s,
        time_to_first_token_ms=Percentiles.of([r.received_ns[0] - r.sent_ns for r in requests]),
        inter_token_latency_ms=Percentiles.of(gaps_ns) if gaps_ns else None,
        request_latency_ms=Percentiles.of(latencies_ns),
    )


def _request(record: dict[str, Any]) -> _Request:
    received_ns = list(record["response_timestamps"])
    outputs = list(record["response_outputs"])
    # Triton may send the flag that ends a stream in a response of its own, without any output;
    # what the export shows for an output that is not there is not to be trusted.
    last = outputs[-1] if outputs else {}
    says = any(last.get(each.name) for each in (Outputs.TEXT_OUTPUT, Outputs.FINISH_REASON))
    if len(outputs) > 1 and not says:
        outputs.pop()
        received_ns.pop()
    return _Request(
        sent_ns=int(record["timestamp"]),
        received_ns=tuple(map(int, received_ns)),
        tokens=tuple(int(output[Outputs.NUM_OUTPUT_TOKENS.name]) for output in outputs),
    )
