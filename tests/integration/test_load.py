"""More than the engine holds at once: what fits runs, what waits is served, the rest is refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ops.triton import TritonServer
from tests.integration.conftest import Server, make_repository
from tests.integration.speaker import Speaker
from tests.integration.test_cancellation import await_metric

pytestmark = pytest.mark.integration

PROMPT = "Count from 5 to 90."


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with room for two running and two waiting sequences."""
    folder = tmp_path_factory.mktemp("small")
    repository = make_repository(
        folder / "repository",
        "tensorrt_llm.max_num_sequences=2",
        "tensorrt_llm.max_queue_size=2",
    )
    with TritonServer(repository, log=folder / "log") as server:
        yield Server(server.ports)


def test_a_full_queue_refuses_at_once_and_the_others_are_served(small: Server) -> None:
    speaker = Speaker(small.grpc_url)
    expected = speaker.ask(PROMPT, 1900, end_id=-1).text
    running = [speaker.start(PROMPT, 1900, end_id=-1, stream=True) for _ in range(2)]
    await_metric(small, "trireme_running_sequences", 2)
    waiting = [speaker.start(PROMPT, 1900, end_id=-1) for _ in range(2)]
    await_metric(small, "trireme_waiting_sequences", 2)
    refused = speaker.ask(PROMPT, 8)
    assert refused.error is not None
    assert "the queue is full: 2 sequences wait" in refused.error
    assert "max_queue_size is 2" in refused.error
    assert [stream.answer().text for stream in (*running, *waiting)] == [expected] * 4


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
