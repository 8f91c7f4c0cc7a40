"""More than the engine holds at once: what fits runs, what waits is served, the rest is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest

from ops.triton_process import TritonServer
from tests.integration.conftest import Server, make_repository
from tests.integration.speaker import Speaker
from tests.integration.test_cancellation import (
    await_cancelled,
    await_metric,
    await_running,
    cancelled,
    metric,
)

pytestmark = pytest.mark.integration

PROMPT = "Count from 5 to 90."
LONG = 600  # tokens, which outlast a test while the engine is braked


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with room for two running and two waiting sequences."""
    folder = tmp_path_factory.mktemp("small")
    repository = make_repository(
        folder / "repository",
        "onnx.max_num_sequences=2",
        "onnx.max_queue_size=2",
    )
    with TritonServer(repository, log=folder / "log") as server:
        yield Server.of(server)


def test_a_full_queue_refuses_at_once_and_the_others_are_served(small: Server) -> None:
    speaker = Speaker(small.grpc_url)
    expected = speaker.ask(PROMPT, LONG, end_id=-1).text
    with small.braked():
        running = [speaker.start(PROMPT, LONG, end_id=-1, stream=True) for _ in range(2)]
        await_running(small, 2)
        waiting = [speaker.start(PROMPT, LONG, end_id=-1) for _ in range(2)]
        await_metric(small, "trireme_waiting_sequences", 2)
        refused = speaker.ask(PROMPT, 8)
    assert refused.error is not None
    assert "the queue is full: 2 sequences wait" in refused.error
    assert "max_queue_size is 2" in refused.error
    assert [stream.answer().text for stream in (*running, *waiting)] == [expected] * 4


def test_the_more_urgent_of_those_that_wait_goes_first(small: Server) -> None:
    speaker = Speaker(small.grpc_url)
    before = cancelled(small)
    with small.braked():
        running = [speaker.start(PROMPT, LONG, end_id=-1) for _ in range(2)]
        await_running(small, 2)
        waiting = []
        for count, priority in enumerate((5, 1), start=1):
            waiting.append(speaker.start(PROMPT, 4, priority=priority, return_perf_metrics=True))
            await_metric(small, "trireme_waiting_sequences", count)
        running[0].cancel()
        last, first = (stream.answer() for stream in waiting)
        running[1].cancel()
        await_cancelled(small, before + 2)
    assert first.array("first_scheduled_time_ns") < last.array("first_scheduled_time_ns")


def timeouts(server: Server) -> int:
    return metric(server, "trireme_ended_sequences_total", reason="timeout")


@pytest.mark.parametrize("stream", [True, False])
def test_a_running_request_whose_time_is_up_ends_with_an_error(small: Server, stream: bool) -> None:
    before = timeouts(small)
    speaker = Speaker(small.grpc_url)
    with small.braked():
        answer = speaker.start(PROMPT, LONG, timeout=300_000, end_id=-1, stream=stream).answer()
    assert answer.error is not None
    assert re.search(rf"timeout of 0.3 s expired after \d+ of {LONG} tokens", answer.error)
    assert stream or not answer.results
    await_metric(small, "trireme_ended_sequences_total", before + 1, reason="timeout")
    assert metric(small, "trireme_running_sequences") == 0


def test_a_waiting_request_whose_time_is_up_ends_while_others_run(small: Server) -> None:
    speaker = Speaker(small.grpc_url)
    before = cancelled(small)
    with small.braked():
        running = [speaker.start(PROMPT, LONG, end_id=-1) for _ in range(2)]
        await_running(small, 2)
        # Over HTTP, where Triton leaves a timeout among the request's parameters.
        body = {"text_input": PROMPT, "max_tokens": 50, "parameters": {"timeout": 200_000}}
        url = f"{small.http_url}/v2/models/ensemble/generate"
        response = httpx.post(url, json=body, timeout=60)
        assert response.is_error
        assert "timeout of 0.2 s expired after 0 of 50 tokens" in response.json()["error"]
        assert metric(small, "trireme_running_sequences") == 2
        for stream in running:
            stream.cancel()
        await_cancelled(small, before + 2)


def test_a_beginning_that_was_seen_is_not_computed_again(small: Server) -> None:
    speaker = Speaker(small.grpc_url)
    prompt = "Sort these words: " + "pear, apple, fig, " * 20
    cold = speaker.ask(prompt, 8, return_perf_metrics=True)
    warm = speaker.ask(prompt + "plum", 8, return_perf_metrics=True)
    again = speaker.ask(prompt, 8, return_perf_metrics=True)
    assert cold.array("kv_cache_reused_blocks")[0][0] == 0
    assert warm.array("kv_cache_reused_blocks")[0][0] > 3
    assert again.array("kv_cache_reused_blocks")[0][0] > 3
    assert again.text == cold.text
