"""The engine's thread, step by step on a sample engine, with a clock that the test moves."""

from __future__ import annotations

import math
from threading import Thread
from typing import Any

import numpy as np
import pytest

from contract.error_text import ErrorText, Status, read
from python_backend.engine.sequence import SamplingParams
from tests.python_backend.sample_engine import SampleEngine
from tests.python_backend.serving.clock import Clock, wait_for
from tests.python_backend.serving.fake_triton import MetricFamily, Request

from python_backend.serving.engine_loop import EngineLoop  # isort: skip
from python_backend.serving.engine_metrics import EngineMetrics  # isort: skip
from python_backend.serving.engine_stream import EngineStream  # isort: skip
from python_backend.serving.generation_request import Reporting, Row  # isort: skip
from python_backend.serving.pacing import Outbox  # isort: skip
from python_backend.serving.probing import Prober  # isort: skip
from python_backend.serving.sessions import Session  # isort: skip
from python_backend.serving.stop_request import Stop  # isort: skip

PERIOD_S = 1.0


class Serving:
    """A loop, its engine and its sender, all in one thread."""

    def __init__(self, max_sequences: int = 4) -> None:
        MetricFamily.made.clear()
        self.clock = Clock()
        self.engine = SampleEngine(max_sequences)
        self.outbox = Outbox(per_s=1e9, burst=1, clock=self.clock)
        self.loop = EngineLoop(
            self.engine,
            EngineMetrics("m", "1", self.engine),
            self.outbox,
            Prober(PERIOD_S, clock=self.clock),
            PERIOD_S,
            self.clock,
        )
        self.loop._next_check_s = math.inf

    def start(
        self,
        copies: int = 1,
        max_tokens: int = 5,
        streaming: bool = True,
        request_id: str = "",
        **options: Any,
    ) -> Request:
        """A request whose prompt is 5, 6, 7."""
        params = SamplingParams(max_tokens=max_tokens)
        prompt = np.array([5, 6, 7], dtype=np.int32)
        reporting = Reporting(streaming, False, False, False, False)
        streams = [
            EngineStream(Row(prompt, params, 3, 0, copy), reporting, b"") for copy in range(copies)
        ]
        request = Request({}, id=request_id)
        session = Session(
            request, streams, num_return_sequences=copies, clock=self.clock, **options
        )
        self.loop.start(session)
        return request

    def advance(self, steps: int = 1) -> None:
        for _ in range(steps):
            assert self.loop.take_inbox()
            self.loop.advance()
            self.send()

    def send(self) -> None:
        """Do what the sender has to do by now."""
        sent: list[bool] = []
        self.outbox.put(lambda: sent.append(True))
        for job in self.outbox:
            job()
            if sent and not self.outbox.num_waiting:
                return

    def finish(self) -> None:
        self.advance()
        while self.engine.has_work:
            self.advance()


@pytest.fixture
def serving() -> Serving:
    return Serving()


def tokens(request: Request, sequence: int | None = None) -> list[int]:
    """What a client has of an answer, or of one of its sequences."""
    found: list[int] = []
    for response in request.responses:
        outputs = response.outputs
        if response.error is None and sequence in (None, outputs.get("sequence_index")):
            found += outputs["output_ids"][0, 0].tolist()
    return found


def reasons(request: Request) -> list[str]:
    said = (response.outputs.get("finish_reason") for response in request.responses)
    return [each.item().decode() for each in said if each is not None]


def ended(reason: str) -> float:
    family = MetricFamily.made["trireme_ended_sequences_total"]
    key = frozenset({"model": "m", "version": "1", "reason": reason}.items())
    return family.series[key].value


def test_a_stream_has_a_response_for_each_step(serving: Serving) -> None:
    request = serving.start()
    serving.advance(2)
    assert tokens(request) == [5, 6]
    assert not request.ended
    serving.finish()
    assert len(request.responses) == 5
    assert tokens(request) == [5, 6, 7, 5, 6]
    assert reasons(request) == ["length"]
    assert request.ended


def test_an_answer_that_does_not_stream_comes_at_once(serving: Serving) -> None:
    request = serving.start(streaming=False)
    serving.advance(4)
    assert request.responses == []
    serving.finish()
    (response,) = request.responses
    assert response.outputs["output_ids"].tolist() == [[[5, 6, 7, 5, 6]]]
    assert request.ended


def test_several_sequences_end_as_one_request(serving: Serving) -> None:
    request = serving.start(copies=3)
    serving.finish()
    assert [tokens(request, copy) for copy in range(3)] == [[5, 6, 7, 5, 6]] * 3
    assert request.ended


@pytest.mark.parametrize("steps", [0, 2])
def test_a_request_is_stopped_by_its_id_and_no_other(serving: Serving, steps: int) -> None:
    stopped, other = serving.start(2, request_id="a"), serving.start(request_id="b")
    serving.advance(steps)
    serving.loop.stop(Stop(None, "a"))
    serving.finish()
    assert reasons(stopped) == ["cancelled"] * 2
    assert tokens(stopped, 0) == [5, 6, 7][:steps]
    assert stopped.ended
    assert reasons(other) == ["length"]


def test_one_sequence_is_stopped_by_its_own_id(serving: Serving) -> None:
    request = serving.start(copies=2)
    serving.advance()
    sequence_id = request.responses[0].outputs["sequence_id"].item()
    serving.loop.stop(Stop(sequence_id, ""))
    serving.finish()
    assert sorted(reasons(request)) == ["cancelled", "length"]
    assert tokens(request, 1) == [5, 6, 7, 5, 6]
    assert request.ended


def test_what_is_stopped_twice_or_too_late_is_stopped_once(serving: Serving) -> None:
    request = serving.start(request_id="a", max_tokens=2)
    other = serving.start()
    serving.advance()
    for _ in range(2):
        serving.loop.stop(Stop(None, "a"))
    serving.advance()
    serving.loop.stop(Stop(None, "a"))
    serving.finish()
    assert reasons(request) == ["cancelled"]
    assert reasons(other) == ["length"]


def test_time_is_up_for_what_runs_and_for_what_waits() -> None:
    serving = Serving(max_sequences=2)
    requests = [serving.start(timeout_s=3), serving.start(), serving.start(timeout_s=3)]
    serving.advance(2)
    serving.clock.now_s += 2.9
    serving.advance()
    assert not any(request.ended for request in requests)
    serving.clock.now_s += 0.1
    serving.advance()
    running, other, waiting = requests
    for request, count in ((running, 3), (waiting, 0)):
        assert request.ended
        assert tokens(request) == [5, 6, 7][:count]
        error = request.responses[-1].error
        assert error is not None
        assert read(error.message) == ErrorText(
            Status.DEADLINE_EXCEEDED,
            f"the request's timeout of 3 s expired after {count} of 5 tokens",
        )
    serving.finish()
    assert reasons(other) == ["length"]
    assert not serving.engine.has_work
    serving.loop._metrics.publish()
    assert (ended("timeout"), ended("length")) == (2, 1)


def test_a_step_that_fails_ends_what_ran_and_no_more() -> None:
    serving = Serving(max_sequences=2)
    first, second, waiting = (serving.start() for _ in range(3))
    serving.advance()
    serving.engine.fails = True
    serving.advance()
    for request in (first, second):
        assert request.ended
        assert request.responses[-1].error is not None
        assert read(request.responses[-1].error.message) == ErrorText(
            Status.INTERNAL,
            "the sample is broken",
        )
    serving.finish()
    assert reasons(waiting) == ["length"]
    serving.loop._metrics.publish()
    assert ended("error") == 2


def test_at_the_end_what_runs_is_cancelled(serving: Serving) -> None:
    running, late = serving.start(), serving.start()
    serving.advance()
    serving.loop.end()
    serving.loop.run()
    for job in serving.outbox:
        job()
    for request in (running, late):
        assert reasons(request) == ["cancelled"]
        assert request.ended
    assert not serving.engine.has_work


def check_clients(serving: Serving) -> None:
    """Have the loop see after its clients, now."""
    serving.loop._next_check_s = serving.clock.now_s
    serving.advance()


def test_a_silent_request_in_an_ensemble_is_probed(serving: Serving) -> None:
    silent = serving.start(streaming=False, max_tokens=100, probes=True)
    streaming = serving.start(max_tokens=100, probes=True)
    serving.advance()
    serving.clock.now_s += PERIOD_S
    serving.advance()
    count = len(streaming.responses)
    check_clients(serving)
    (probe,) = silent.responses
    assert probe.outputs["output_ids"].size == 0
    assert "stream_context" in probe.outputs
    assert "finish_reason" not in probe.outputs
    assert len(streaming.responses) == count + 1


def test_clients_are_seen_after_once_a_period(serving: Serving) -> None:
    request = serving.start(streaming=False, max_tokens=1000, probes=True)
    serving.loop._next_check_s = serving.clock.now_s
    for _ in range(100):
        serving.advance()
        serving.clock.now_s += PERIOD_S / 10
    assert len(request.responses) == 9


def test_a_client_of_the_engine_itself_that_left_is_cancelled(serving: Serving) -> None:
    gone = serving.start(copies=2, max_tokens=1000)
    staying = serving.start(max_tokens=1000)
    serving.advance()
    gone.cancelled = True
    check_clients(serving)
    serving.advance()
    assert reasons(gone) == ["cancelled"] * 2
    assert reasons(staying) == []


def test_an_idle_loop_tells_its_figures_before_it_waits(serving: Serving) -> None:
    serving.start(max_tokens=1)
    serving.advance()
    assert ended("length") == 0
    idle = Thread(target=serving.loop.take_inbox, daemon=True)
    idle.start()
    wait_for(lambda: ended("length") == 1)
    serving.loop.end()
    idle.join()


def test_what_waits_is_counted(serving: Serving) -> None:
    serving.start(copies=2)
    assert serving.loop.num_waiting == 1  # what the engine was not yet asked counts as one
    serving.loop.take_inbox()
    assert serving.loop.num_waiting == 2
    serving.loop.advance()
    assert serving.loop.num_waiting == 0
