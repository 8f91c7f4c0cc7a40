"""The engine's figures on Triton's own metrics endpoint."""

from __future__ import annotations

import time

import httpx
import pytest

from tests.integration.conftest import Server
from tests.integration.speaker import Speaker

pytestmark = pytest.mark.integration

COMMON = ('model="tensorrt_llm"', 'version="1"')
HISTOGRAMS = (
    "queue_time_seconds",
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "batch_size_sequences",
)


def figures(triton: Server) -> dict[str, float]:
    """Each of our series, by its name and the labels that are not every series'."""
    found = {}
    for line in httpx.get(triton.metrics_url).text.splitlines():
        if line.startswith("trireme_"):
            series, value = line.rsplit(maxsplit=1)
            name, labels = series.removeprefix("trireme_").rstrip("}").split("{")
            own = [each for each in labels.split(",") if each not in COMMON]
            found[name + "".join(f"{{{label}}}" for label in own)] = float(value)
    return found


def settled_figures(triton: Server) -> dict[str, float]:
    """The figures when nothing runs and all that ran is published."""
    before: dict[str, float] = {}
    deadline = time.monotonic() + 30
    while (now := figures(triton)) != before or now["running_sequences"]:
        assert time.monotonic() < deadline
        before = now
        time.sleep(0.2)
    return now


def test_a_request_is_told_of_figure_by_figure(triton: Server, speaker: Speaker) -> None:
    before = settled_figures(triton)
    answers = [
        speaker.ask("Count from 5 to 60.", 20, end_id=-1, return_num_input_tokens=True)
        for _ in range(2)
    ]
    prompt = int(answers[0].array("num_input_tokens")[0][0])
    last = "batch_size_sequences_sum"  # that is published
    deadline = time.monotonic() + 30
    while (after := figures(triton))[last] < before[last] + 40:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    rise = {name: after[name] - before[name] for name in after}
    assert rise["prompt_tokens_total"] == 2 * prompt
    assert rise["output_tokens_total"] == 40
    assert rise["prefix_looked_up_blocks_total"] == 2 * ((prompt - 1) // 16)
    assert rise["prefix_reused_blocks_total"] >= (prompt - 1) // 16
    assert rise['ended_sequences_total{reason="length"}'] == 2
    assert rise["queue_time_seconds_count"] == rise["time_to_first_token_seconds_count"] == 2
    assert rise["inter_token_latency_seconds_count"] == 38
    assert rise["batch_size_sequences_count"] >= 40
    assert rise["batch_size_sequences_sum"] >= rise["batch_size_sequences_count"]
    assert 0 < rise["inter_token_latency_seconds_sum"] < 30
    for name in HISTOGRAMS:
        buckets = {
            float(each.split('"')[1]): value
            for each, value in after.items()
            if each.startswith(f"{name}_bucket")
        }
        counts = [count for _, count in sorted(buckets.items())]
        assert len(counts) > 8
        assert counts == sorted(counts)
        assert counts[-1] == after[f"{name}_count"]
    assert after["kv_cache_budget_bytes"] >= after["kv_cache_used_bytes"] >= 0
    assert (after["running_sequences"], after["waiting_sequences"]) == (0, 0)
