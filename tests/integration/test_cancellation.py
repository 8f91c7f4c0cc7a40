"""A client that goes away frees the engine, streaming or not.

Over HTTP that holds for streams: Triton stops reading a connection until its first response is
written, so it sees a cut `generate` only when the answer is done.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from ops.triton_process import TritonServer
from tests.integration.conftest import Server, make_repository
from tests.integration.speaker import Speaker, Stream, tensor

pytestmark = pytest.mark.integration

LONG: dict[str, Any] = {"text": "Count from 1 to 900.", "max_tokens": 2000, "end_id": -1}


def find_metric(triton: Server, name: str, **labels: str) -> int | None:
    """A figure, None where it was not yet published."""
    for line in httpx.get(triton.metrics_url).text.splitlines():
        match = re.fullmatch(rf"{name}\{{(.*)\}} (\d+)", line)
        if match and all(f'{key}="{value}"' in match[1] for key, value in labels.items()):
            return int(match[2])
    return None


def metric(triton: Server, name: str, **labels: str) -> int:
    found = find_metric(triton, name, **labels)
    assert found is not None, f"no metric {name}"
    return found


def cancelled(triton: Server) -> int:
    return metric(triton, "trireme_ended_sequences_total", reason="cancelled")


def await_cancelled(triton: Server, count: int, timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while cancelled(triton) < count:
        assert time.monotonic() < deadline, "the engine was not told"
        time.sleep(0.05)


def await_metric(triton: Server, name: str, count: int, **labels: str) -> None:
    deadline = time.monotonic() + 30
    while (find_metric(triton, name, **labels) or 0) < count:
        assert time.monotonic() < deadline, f"{name} stays under {count}"
        time.sleep(0.02)


def await_running(triton: Server, count: int = 1) -> None:
    """Wait for so many; certain only while the engine is braked, or they may be done already."""
    await_metric(triton, "trireme_running_sequences", count)


def await_idle(triton: Server) -> None:
    deadline = time.monotonic() + 30
    while metric(triton, "trireme_running_sequences"):
        assert time.monotonic() < deadline, "the engine goes on"
        time.sleep(0.02)


def until_begun(ask: Callable[[float], bool]) -> None:
    """Ask with a time limit that a slow machine, too, has time to begin an answer in.

    Args:
        ask: Asks with a limit in seconds, and says whether the answer began before it passed.
    """
    assert any(ask(limit_s) for limit_s in (0.5, 2, 8, 32)), "no answer begins"


@pytest.mark.parametrize("stream", [True, False])
def test_a_cancelled_grpc_stream(triton: Server, speaker: Speaker, stream: bool) -> None:
    before = cancelled(triton)
    with triton.braked():
        under_way = speaker.start(**LONG, stream=stream)
        await_running(triton)
        under_way.cancel()
        await_cancelled(triton, before + 1)


def steps(triton: Server) -> int:
    return metric(triton, "trireme_batch_size_sequences_count")


def await_cancelled_in_a_few_steps(triton: Server, count: int) -> None:
    """For those who left just now, while the engine is braked."""
    at_first, at_first_s = steps(triton), time.monotonic()
    await_cancelled(triton, count)
    took = steps(triton) - at_first
    print(f"{took} steps, {time.monotonic() - at_first_s:.2f} s")
    assert took <= 20


@pytest.mark.parametrize(("requests", "n"), [(50, 1), (200, 1), (1, 64), (10, 8)])
@pytest.mark.parametrize("stream", [True, False])
def test_many_who_leave_together_are_gone_in_a_few_steps(
    triton: Server, speaker: Speaker, requests: int, n: int, stream: bool
) -> None:
    """They were found one after another: 50 took the engine 50 steps of this length."""
    before = cancelled(triton)
    with triton.braked(0.1):
        leaving = [
            speaker.start(**LONG, stream=stream, num_return_sequences=n) for _ in range(requests)
        ]
        await_running(triton, min(requests * n, 16))
        time.sleep(1)
        for each in leaving:
            each.cancel()
        await_cancelled_in_a_few_steps(triton, before + requests * n)


def test_a_cut_http_stream(triton: Server) -> None:
    before = cancelled(triton)
    body = {"text_input": "Count from 1 to 900.", "max_tokens": 2000, "end_id": -1, "stream": True}
    url = f"{triton.http_url}/v2/models/ensemble/generate_stream"
    with triton.braked():
        with httpx.stream("POST", url, json=body, timeout=60) as response:
            next(response.iter_lines())
        await_cancelled(triton, before + 1)


def test_a_cancelled_request_to_the_engine_alone(triton: Server) -> None:
    before = cancelled(triton)
    inputs = [
        tensor("input_ids", [[70, 71, 72]]),
        tensor("input_lengths", [[3]]),
        tensor("request_output_len", [[2000]]),
        tensor("end_id", [[-1]]),
        tensor("streaming", True),
    ]
    with triton.braked():
        stream = Stream(triton.grpc_url, inputs, model="tensorrt_llm")
        stream.next()
        stream.cancel()
        await_cancelled(triton, before + 1)


def test_stop_by_request_id(triton: Server) -> None:
    inputs = [
        tensor("input_ids", [[70, 71, 72]]),
        tensor("input_lengths", [[3]]),
        tensor("request_output_len", [[2000]]),
        tensor("end_id", [[-1]]),
    ]
    with triton.braked():
        stream = Stream(triton.grpc_url, inputs, model="tensorrt_llm", request_id="to-stop")
        await_running(triton)
        stop = [*inputs, tensor("stop", True)]
        assert Stream(triton.grpc_url, stop, model="tensorrt_llm", request_id="to-stop").answer()
        answer = stream.answer()
    assert answer.finish_reason == "cancelled"
    assert 0 < answer.array("sequence_length")[0][0] < 2000


def test_stop_without_a_name_is_refused(triton: Server) -> None:
    inputs = [
        tensor("input_lengths", [[1]]),
        tensor("request_output_len", [[1]]),
        tensor("stop", True),
    ]
    answer = Stream(triton.grpc_url, inputs, model="tensorrt_llm").answer()
    assert answer.error is not None
    assert "request id" in answer.error


def test_others_go_on(triton: Server, speaker: Speaker) -> None:
    prompt = "Count from 5 to 90."
    alone = speaker.ask(prompt, 600, end_id=-1).text
    before = cancelled(triton)
    with triton.braked():
        leaving = [speaker.start(**LONG, stream=True) for _ in range(3)]
        staying = speaker.start(prompt, 600, end_id=-1, stream=True)
        first, _ = staying.next()
        for stream in leaving:
            stream.next()
            stream.cancel()
        await_cancelled(triton, before + 3)
    rest = staying.answer().text
    assert first.as_numpy("text_output")[0] + rest == alone


def test_triton_stops_at_once_after_cancellations(tmp_path: Path) -> None:
    """A request that hangs in the ensemble would hold the server for its exit timeout, 30 s."""
    repository = make_repository(tmp_path / "repository")
    with TritonServer(repository, log=tmp_path / "log") as server:
        own = Server.of(server)
        speaker = Speaker(own.grpc_url)
        with own.braked():
            for count, stream in enumerate((True, False, True), start=1):
                under_way = speaker.start(**LONG, stream=stream)
                await_running(own)
                under_way.cancel()
                await_cancelled(own, count)
        server.stop(grace_s=20)
    assert "Exit timeout expired" not in server.log.read_text(errors="replace")
