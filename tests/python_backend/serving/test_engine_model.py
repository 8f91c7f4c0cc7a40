"""The whole model on a sample engine, its threads and all: what Triton gives and gets."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from contract.error_text import ErrorText, Status, read
from contract.model_settings import EngineModelSettings, from_model_config
from contract.models import TENSORRT_LLM_MODEL
from python_backend.engine.engine_core import EngineCore
from python_backend.engine.sequence import Sequence
from tests.python_backend.sample_engine import SampleEngine
from tests.python_backend.serving.clock import wait_for
from tests.python_backend.serving.fake_triton import (
    InferenceResponse,
    Logger,
    MetricFamily,
    Request,
    initialize_args,
    make_request,
    undecoupled,
)

from python_backend.serving.engine_model import EngineModel  # isort: skip
from python_backend.serving.engine_stream import EngineStream  # isort: skip
from python_backend.serving.sessions import Session  # isort: skip

ENDLESS = 4000


class SlowEngine(SampleEngine):
    """Takes seconds for what is endless, so that it can be ended before."""

    def step(self) -> list[Sequence]:
        time.sleep(0.001)
        return super().step()


class SampleModel(EngineModel):
    """Serves a sample."""

    def load(self, args: dict[str, str]) -> tuple[EngineCore, EngineModelSettings]:
        settings = from_model_config(EngineModelSettings, json.loads(args["model_config"]))
        return SlowEngine(4), settings


Load = Callable[..., EngineModel]


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Load]:
    models: list[EngineModel] = []

    def load(decoupled: bool = True, **settings: Any) -> EngineModel:
        settings.setdefault("exclude_input_in_output", True)
        MetricFamily.made.clear()
        Logger.logged.clear()
        model = SampleModel()
        parameters = {name: json.dumps(value) for name, value in settings.items()}
        args = initialize_args(tmp_path / "tensorrt_llm", **parameters)
        model.initialize(args if decoupled else undecoupled(args))
        models.append(model)
        return model

    yield load
    for model in models:
        model.finalize()


def generate(*rows: list[int], max_tokens: int = 6, **inputs: Any) -> Request:
    """A request whose rows are of one length."""
    return make_request(
        TENSORRT_LLM_MODEL,
        input_ids=rows,
        input_lengths=[len(row) for row in rows],
        request_output_len=[max_tokens] * len(rows),
        **inputs,
    )


def stop(request_id: str = "r", **inputs: Any) -> Request:
    request = make_request(
        TENSORRT_LLM_MODEL,
        input_ids=[[0]],
        input_lengths=[1],
        request_output_len=[1],
        stop=[True],
        **inputs,
    )
    request.id = request_id
    return request


def answered(*requests: Request) -> None:
    wait_for(lambda: all(request.ended for request in requests))


def refusal(request: Request) -> ErrorText:
    answered(request)
    (response,) = request.responses
    assert response.error is not None
    return read(response.error.message)


def reasons(request: Request) -> list[str]:
    said = (response.outputs.get("finish_reason") for response in request.responses)
    return [each.item().decode() for each in said if each is not None]


def test_it_says_what_it_runs_on(load: Load) -> None:
    load()
    assert ("info", "the engine runs on: a sample") in Logger.logged


def test_requests_side_by_side_are_answered_each_in_its_way(load: Load) -> None:
    model = load(stream_responses_per_s=100_000)
    streaming = generate([5, 6, 7], streaming=[True])
    whole = generate([8, 9])
    batch = generate([5, 6], [8, 9], num_return_sequences=[2, 2], streaming=[False, False])
    ends = generate([5, 2])
    model.execute([streaming, whole, batch, ends])
    answered(streaming, whole, batch, ends)
    pieces = [response.outputs["output_ids"][0, 0].tolist() for response in streaming.responses]
    assert [token for piece in pieces for token in piece] == [5, 6, 7, 5, 6, 7]
    assert reasons(streaming) == reasons(whole) == ["length"]
    assert [each.outputs["output_ids"].tolist() for each in whole.responses] == [
        [[[8, 9, 8, 9, 8, 9]]]
    ]
    rows = {
        (each.outputs["batch_index"].item(), each.outputs["sequence_index"].item()): each.outputs[
            "output_ids"
        ].tolist()
        for each in batch.responses
    }
    assert rows == {
        (row, copy): [[[*ids * 3]]] for row, ids in enumerate(([5, 6], [8, 9])) for copy in range(2)
    }
    assert reasons(ends) == ["stop"]
    assert ends.responses[0].outputs["output_ids"].tolist() == [[[5]]]


def test_each_row_gets_its_own_context_back(load: Load) -> None:
    request = generate([5], [6], stream_context=[b"first", b"second"])
    load().execute([request])
    answered(request)
    said = {
        each.outputs["batch_index"].item(): each.outputs["stream_context"].item()
        for each in request.responses
    }
    assert said == {0: b"first", 1: b"second"}


def test_the_settings_say_whether_a_prompt_is_part_of_its_answer(load: Load) -> None:
    request = generate([5, 6], max_tokens=1)
    load(exclude_input_in_output=False).execute([request])
    answered(request)
    assert request.responses[0].outputs["output_ids"].tolist() == [[[5, 6, 5]]]


def test_a_wrong_request_is_refused_alone(load: Load) -> None:
    wrong = [
        generate([5], max_tokens=5000),
        generate([5], beam_width=[3]),
        make_request(TENSORRT_LLM_MODEL, input_ids=[[5]], input_lengths=[1]),
    ]
    right = generate([5])
    load().execute([*wrong, right])
    told = [refusal(request) for request in wrong]
    assert {each.status for each in told} == {Status.INVALID_ARGUMENT}
    assert [each.param for each in told[1:]] == ["beam_width", "max_tokens"]
    assert "max_tokens is 5000" in told[0].message
    assert "beam_width is above 1" in told[1].message
    answered(right)
    assert reasons(right) == ["length"]


def started(model: EngineModel, request: Request) -> list[EngineStream]:
    """The streams of a request that the model takes in."""
    sessions: list[Session[EngineStream]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model._loop, "start", sessions.append)
        model.execute([request])
    (session,) = sessions
    return list(session.streams)


def test_a_full_queue_says_so(load: Load) -> None:
    model = load(max_queue_size=3)
    too_many = generate([5], num_return_sequences=[4])
    model.execute([too_many])
    assert refusal(too_many) == ErrorText(
        Status.UNAVAILABLE,
        "the queue is full: 0 sequences wait and this request has 4; max_queue_size is 3",
    )


def test_a_probe_waits_behind_nobody(load: Load) -> None:
    model = load(max_queue_size=1)
    probe = generate([5], [6])  # two sequences, where one may wait
    probe.parameters_json = json.dumps({"probe": True})
    streams = started(model, probe)
    assert all(each.sequence.is_promoted for each in streams)
    usual = generate([5])
    usual.parameters_json = json.dumps({"probe": "yes"})
    assert not any(each.sequence.is_promoted for each in started(model, usual))


def test_a_sequence_knows_whose_share_it_takes(load: Load) -> None:
    model = load()
    named, unnamed, other = (generate([5], [6]) for _ in range(3))
    named.parameters_json = json.dumps({"share": "tenant-a"})
    streams = started(model, named)
    assert {each.sequence.owner for each in streams} == {"tenant-a"}
    assert {each.sequence.salt for each in streams} == {b"tenant-a"}  # nobody finds its prefixes
    (owner,) = {each.sequence.owner for each in started(model, unnamed)}
    assert owner not in {each.sequence.owner for each in started(model, other)}


def test_a_request_is_stopped_by_its_id(load: Load) -> None:
    model = load()
    running = [generate([5], max_tokens=ENDLESS, end_id=[-1]) for _ in range(3)]
    running[2].id = "another"
    stops = stop()
    model.execute([*running, stops])
    answered(*running[:2], stops)
    assert [reasons(request) for request in running[:2]] == [["cancelled"]] * 2
    assert stops.responses[0].error is None
    nameless = stop("")
    model.execute([nameless])
    assert refusal(nameless).status is Status.INVALID_ARGUMENT
    assert not running[2].ended
    model.execute([stop("another")])
    answered(running[2])


def test_time_that_is_up_is_an_error(load: Load) -> None:
    request = generate([5], max_tokens=ENDLESS, num_return_sequences=[2])
    request.timeout_us = 1
    load().execute([request])
    answered(request)
    assert len(request.responses) == 2
    for response in request.responses:
        assert response.error is not None
        said = read(response.error.message)
        assert said.status is Status.DEADLINE_EXCEEDED
        assert said.message.startswith("the request's timeout of 1e-06 s expired after ")


def test_a_client_that_cannot_be_written_to_harms_nobody(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, fine = generate([5]), generate([6])

    def fail(response: InferenceResponse, flags: int = 0) -> None:
        raise RuntimeError("gone")

    monkeypatch.setattr(broken, "send", fail)
    load().execute([broken, fine])
    answered(fine)
    assert reasons(fine) == ["length"]
    assert ("warning", "a response could not be sent: RuntimeError('gone')") in Logger.logged


def test_the_end_of_the_model_is_the_end_of_its_requests(load: Load) -> None:
    model = load()
    requests = [generate([5], max_tokens=ENDLESS, end_id=[-1]) for _ in range(3)]
    model.execute(requests)
    model._loop.end()
    answered(*requests)
    assert [reasons(request) for request in requests] == [["cancelled"]] * 3


@pytest.mark.parametrize("probes", [True, False])
def test_a_request_in_an_ensemble_is_probed_and_no_other(load: Load, probes: bool) -> None:
    model = load(cancellation_check_period_ms=5)
    request = generate([5], max_tokens=300, end_id=[-1], liveness_probes=[probes])
    model.execute([request])
    answered(request)
    assert bool(request.responses[:-1]) == probes
    assert reasons(request) == ["length"]


def test_a_model_that_is_not_decoupled_answers_once(load: Load) -> None:
    model = load(decoupled=False, exclude_input_in_output=False, cancellation_check_period_ms=1)
    # In an ensemble, too, no probe may come before the answer.
    request = generate([8, 9], max_tokens=300, liveness_probes=[True])
    model.execute([request])
    answered(request)
    (response,) = request.responses
    assert response.outputs["output_ids"].tolist() == [[[8, 9] * 151]]
    assert reasons(request) == ["length"]


@pytest.mark.parametrize(
    ("request_", "param", "message"),
    [
        (generate([5], streaming=[True]), "streaming", "streaming is true; streaming is only"),
        (generate([5], [6]), None, "the request has 2 prompts; more than one"),
        (generate([5], num_return_sequences=[2]), "num_return_sequences", "is 2; more than one"),
    ],
)
def test_what_has_more_than_one_answer_is_refused_then(
    load: Load, request_: Request, param: str | None, message: str
) -> None:
    load(decoupled=False).execute([request_])
    said = refusal(request_)
    assert (said.status, said.param) == (Status.INVALID_ARGUMENT, param)
    assert message in said.message
    assert "decoupled_mode=false" in said.message


def test_a_request_is_stopped_there_too_and_each_of_both_has_one_response(load: Load) -> None:
    model = load(decoupled=False)
    running, ending = generate([5], max_tokens=ENDLESS), stop()
    model.execute([running])
    model.execute([ending])
    answered(running, ending)
    assert len(running.responses) == len(ending.responses) == 1
    assert reasons(running) == ["cancelled"]
