"""The adapter before the C++ backend: identity, ends and stops where the backend has none."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest

from contract.error_text import ErrorText, Status, read
from contract.models import OURS, TENSORRT_LLM_ADAPTER_MODEL
from contract.nvidia import CPP_BACKEND_MODEL
from tests.python_backend.serving.clock import wait_for
from tests.python_backend.serving.fake_triton import (
    InferenceRequest,
    OtherError,
    OtherResponse,
    Request,
    TritonError,
    initialize_args,
    make_request,
    undecoupled,
)

from python_backend.serving import adapter_model  # isort: skip
from python_backend.serving.adapter_model import TritonPythonModel  # isort: skip


def tokens(*beams: list[int], **place: int) -> OtherResponse:
    """What the C++ backend sends: tokens, their number, and a place where there are several."""
    width = max(map(len, beams))
    ids = np.array([[[*beam, *[0] * (width - len(beam))] for beam in beams]], dtype=np.int32)
    lengths = np.array([[len(beam) for beam in beams]], dtype=np.int32)
    places: dict[str, Any] = {
        name: np.array([[index]], dtype=np.int32) for name, index in place.items()
    }
    return OtherResponse(output_ids=ids, sequence_length=lengths, **places)


class Backend:
    """The C++ backend, whose answers the test sends one by one.

    Attributes:
        asked: Requests to generate.
        stopped: The ids of those that were stopped.
    """

    def __init__(self) -> None:
        self.asked: list[InferenceRequest] = []
        self.stopped: list[str] = []
        self._answers: dict[str, SimpleQueue[OtherResponse | None]] = {}

    def answer(self, request: InferenceRequest) -> Iterable[OtherResponse]:
        assert request.model_name == "tensorrt_llm"
        if "stop" in request.inputs:
            self.stopped.append(request.request_id)
            if request.request_id in self._answers:
                self._answers[request.request_id].put(None)
            return []
        self._answers[request.request_id] = SimpleQueue()
        self.asked.append(request)
        return iter(self._answers[request.request_id].get, None)

    def send(self, *responses: OtherResponse | None, to: int = 0) -> None:
        """Answer a request; None ends it."""
        wait_for(lambda: len(self.asked) > to)
        for response in responses:
            self._answers[self.asked[to].request_id].put(response)


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Backend:
    backend = Backend()
    monkeypatch.setattr(InferenceRequest, "made", [])
    monkeypatch.setattr(InferenceRequest, "answer", backend.answer)
    return backend


Load = Callable[..., TritonPythonModel]


@pytest.fixture
def load(tmp_path: Path, backend: Backend) -> Iterator[Load]:
    models: list[TritonPythonModel] = []

    def load(
        liveness_period_ms: int = 60_000, decoupled: bool = True, **parameters: str
    ) -> TritonPythonModel:
        model = TritonPythonModel()
        parameters.setdefault("exclude_input_in_output", "true")
        parameters["liveness_period_ms"] = str(liveness_period_ms)
        args = initialize_args(tmp_path / "tensorrt_llm_adapter", **parameters)
        model.initialize(args if decoupled else undecoupled(args))
        models.append(model)
        return model

    yield load
    for model in models:
        model.finalize()


def generate(
    *rows: list[int], request_id: str = "r", max_tokens: int = 9, **inputs: Any
) -> Request:
    request = make_request(
        TENSORRT_LLM_ADAPTER_MODEL,
        input_ids=rows,
        input_lengths=[len(row) for row in rows],
        request_output_len=[max_tokens] * len(rows),
        **inputs,
    )
    request.id = request_id
    return request


def stop(request_id: str = "r", **inputs: Any) -> Request:
    return generate([0], request_id=request_id, stop=[True], **inputs)


def answered(*requests: Request) -> None:
    wait_for(lambda: all(request.ended for request in requests))


def said(request: Request) -> list[tuple[list[int], str]]:
    """The tokens and the reason of each response."""
    return [
        (
            response.outputs["output_ids"][0, 0].tolist(),
            response.outputs.get("finish_reason", np.array(b"")).item().decode(),
        )
        for response in request.responses
    ]


def sequence_id(request: Request, response: int = 0) -> int:
    wait_for(lambda: len(request.responses) > response)
    return int(request.responses[response].outputs["sequence_id"].item())


def test_a_stream_has_an_identity_a_context_and_an_end(load: Load, backend: Backend) -> None:
    request = generate([5, 6], streaming=[True], stream_context=[b"said"])
    load().execute([request])
    backend.send(tokens([7]), tokens([8, 9]), None)
    answered(request)
    assert said(request) == [([7], ""), ([8, 9], ""), ([], "stop")]
    assert len({sequence_id(request, index) for index in range(3)}) == 1
    contexts = ["stream_context" in response.outputs for response in request.responses]
    assert contexts == [True, False, False]


def test_an_answer_that_does_not_stream_is_one_response(load: Load, backend: Backend) -> None:
    request = generate([5, 6], max_tokens=2)
    load().execute([request])
    backend.send(tokens([7, 8]), None)
    answered(request)
    assert said(request) == [([7, 8], "length")]


def test_a_prompt_is_put_before_its_answer_here(load: Load, backend: Backend) -> None:
    request = generate([5, 6, 0], max_tokens=2, exclude_input_in_output=[False])
    request.tensors["input_lengths"]._array[...] = 2
    load().execute([request])
    backend.send(tokens([7]), None)
    answered(request)
    assert said(request) == [([5, 6, 7], "stop")]
    assert backend.asked[0].inputs["exclude_input_in_output"].tolist() == [[True]]


def test_the_backend_is_asked_for_what_it_knows_by_an_id_of_its_own(
    load: Load, backend: Backend
) -> None:
    requests = [
        generate([5], streaming=[True], temperature=[0.5], liveness_probes=[True], seed=[3])
        for _ in range(2)
    ]
    load().execute(requests)
    for index in range(2):
        backend.send(None, to=index)
    answered(*requests)
    first, second = backend.asked
    assert len({first.request_id, second.request_id, "r"}) == 3
    assert set(first.inputs) <= set(CPP_BACKEND_MODEL.input_names())
    assert not set(first.inputs) & OURS
    assert first.inputs["temperature"].tolist() == [[0.5]]
    assert first.inputs["input_lengths"].shape == (1, 1)
    assert first.inputs["streaming"].tolist() == [[True]]
    assert set(first.requested_output_names) <= set(CPP_BACKEND_MODEL.output_names())


def test_what_the_backend_is_asked_outlives_tritons_memory(load: Load, backend: Backend) -> None:
    request = generate([5, 6], temperature=[0.5], exclude_input_in_output=[False])
    load().execute([request])
    wait_for(lambda: backend.asked)
    for tensor in request.tensors.values():
        tensor._array[...] = 0
    backend.send(tokens([7]), None)
    answered(request)
    assert backend.asked[0].inputs["input_ids"].tolist() == [[5, 6]]
    assert backend.asked[0].inputs["temperature"].tolist() == [[0.5]]
    assert said(request) == [([5, 6, 7], "stop")]


def test_batches_and_copies_find_their_place(load: Load, backend: Backend) -> None:
    request = generate(
        [5], [6], streaming=[True] * 2, num_return_sequences=[2, 2], stream_context=[b"a", b"b"]
    )
    load().execute([request])
    places = [(row, copy) for row in range(2) for copy in range(2)]
    for row, copy in reversed(places):
        backend.send(tokens([10 * row + copy], batch_index=row, sequence_index=copy))
    backend.send(None)
    answered(request)
    first = {
        (each.outputs["batch_index"].item(), each.outputs["sequence_index"].item()): (
            each.outputs["output_ids"].item(),
            each.outputs["stream_context"].item(),
        )
        for each in request.responses[:4]
    }
    assert first == {(row, copy): (10 * row + copy, b"ab"[row : row + 1]) for row, copy in places}
    assert [reason for _, reason in said(request)] == [""] * 4 + ["stop"] * 4
    assert len({sequence_id(request, index) for index in range(8)}) == 4


def test_beams_come_side_by_side_and_cannot_stream(load: Load, backend: Backend) -> None:
    request = generate([5], beam_width=[2])
    streaming = generate([5], beam_width=[2], streaming=[True])
    load().execute([request, streaming])
    backend.send(tokens([7, 8, 9], [6]), None)
    answered(request, streaming)
    outputs = request.responses[0].outputs
    assert outputs["output_ids"].tolist() == [[[7, 8, 9], [6, 0, 0]]]
    assert outputs["sequence_length"].tolist() == [[3, 1]]
    error = streaming.responses[0].error
    assert error is not None
    assert read(error.message) == ErrorText(
        Status.INVALID_ARGUMENT,
        "beam_width is above 1; beams can't be streamed",
        "beam_width",
    )


def test_a_stop_by_sequence_ends_that_request_alone(load: Load, backend: Backend) -> None:
    model = load()
    stopped, other = (generate([5], streaming=[True]) for _ in range(2))
    model.execute([stopped])
    backend.send(tokens([7]))
    model.execute([other])
    backend.send(tokens([8]), to=1)
    asks = stop(sequence_id=[sequence_id(stopped)])
    model.execute([asks])
    answered(stopped, asks)
    assert backend.stopped == [backend.asked[0].request_id]
    assert said(stopped) == [([7], ""), ([], "cancelled")]
    backend.send(None, to=1)
    answered(other)
    assert said(other)[-1] == ([], "stop")


def test_the_last_of_several_sequences_ends_the_request(load: Load, backend: Backend) -> None:
    model = load()
    request = generate([5], streaming=[True], num_return_sequences=[2])
    model.execute([request])
    backend.send(tokens([7], sequence_index=0), tokens([8], sequence_index=1))
    first, second = (sequence_id(request, index) for index in range(2))
    model.execute([stop(sequence_id=[first])])
    backend.send(tokens([9], sequence_index=1))
    sequence_id(request, 2)
    assert backend.stopped == []
    model.execute([stop(sequence_id=[second])])
    answered(request)
    assert backend.stopped == [backend.asked[0].request_id]
    assert [reason for _, reason in said(request)] == ["", "", "", "cancelled", "cancelled"]


def test_a_sequence_that_is_done_does_not_keep_its_request_from_being_stopped(
    load: Load, backend: Backend
) -> None:
    model = load()
    request = generate([5], num_return_sequences=[2], liveness_probes=[True])
    model.execute([request])
    backend.send(tokens([7], sequence_index=0))
    done = sequence_id(request)
    (other,) = set(model._sessions.by_id) - {done}
    model.execute([stop(sequence_id=[other])])
    answered(request)
    assert [reason for _, reason in said(request)] == ["stop", "cancelled"]


def test_a_stop_by_request_id_ends_all_that_have_it(load: Load, backend: Backend) -> None:
    model = load()
    requests = [generate([5], request_id=name, streaming=[True]) for name in ("a", "a", "b")]
    model.execute(requests)
    wait_for(lambda: len(backend.asked) == 3)
    nameless = stop("")
    model.execute([stop("a"), nameless])
    answered(*requests[:2], nameless)
    assert len(backend.stopped) == 2
    assert [reason for _, reason in said(requests[0])] == ["cancelled"]
    assert nameless.responses[0].error is not None
    for index in range(3):
        backend.send(None, to=index)
    answered(requests[2])
    assert said(requests[2]) == [([], "stop")]


def test_nothing_is_kept_of_a_request_that_ended(load: Load, backend: Backend) -> None:
    model = load()
    request = generate([5], num_return_sequences=[3])
    model.execute([request])
    backend.send(None)
    answered(request)
    assert model._sessions.streams() == []
    model.execute([stop()])
    assert backend.stopped == []


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (TritonError.INVALID_ARG, Status.INVALID_ARGUMENT),
        (TritonError.INTERNAL, Status.INTERNAL),
    ],
)
def test_an_error_of_the_backend_is_handed_on_once(
    load: Load, backend: Backend, code: int, status: Status
) -> None:
    request = generate([5], streaming=[True], num_return_sequences=[2])
    load().execute([request])
    backend.send(tokens([7]), OtherResponse(OtherError("too long", code)))
    answered(request)
    assert len(request.responses) == 2
    error = request.responses[-1].error
    assert error is not None
    assert read(error.message) == ErrorText(status, "too long")


def test_a_backend_that_cannot_be_asked_is_an_error(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(request: InferenceRequest) -> Iterable[OtherResponse]:
        raise RuntimeError("it is not loaded")

    monkeypatch.setattr(InferenceRequest, "answer", fail)
    request = generate([5])
    load().execute([request])
    answered(request)
    error = request.responses[0].error
    assert error is not None
    assert read(error.message) == ErrorText(
        Status.INTERNAL,
        "the engine can't be asked: it is not loaded",
    )


def test_a_silent_request_in_an_ensemble_is_probed(load: Load, backend: Backend) -> None:
    model = load(liveness_period_ms=10)
    request = generate([5], liveness_probes=[True], stream_context=[b"said"])
    direct = generate([5])
    model.execute([request, direct])
    wait_for(lambda: len(request.responses) >= 3)
    wait_for(lambda: len(backend.asked) == 2)
    for index in range(2):
        backend.send(tokens([7]), None, to=index)
    answered(request, direct)
    assert said(request)[0] == ([], "")
    assert request.responses[0].outputs["stream_context"].item() == b"said"
    assert said(request)[-1] == ([7], "stop")
    assert said(direct) == [([7], "stop")]


def test_a_client_of_the_adapter_itself_that_left_ends_its_request(
    load: Load, backend: Backend
) -> None:
    gone, staying = (generate([5], streaming=[True]) for _ in range(2))
    gone.cancelled = True
    load(liveness_period_ms=10).execute([gone])
    answered(gone)
    assert backend.stopped == [backend.asked[0].request_id]
    assert said(gone) == [([], "cancelled")]
    assert not staying.ended


def test_the_end_of_the_model_ends_what_runs(load: Load, backend: Backend) -> None:
    model = load()
    requests = [generate([5], num_return_sequences=[2]) for _ in range(2)]
    model.execute(requests)
    wait_for(lambda: len(backend.asked) == 2)
    model.finalize()
    answered(*requests)
    assert sorted(backend.stopped) == sorted(each.request_id for each in backend.asked)


def test_it_says_that_it_lives_as_long_as_it_does(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched: list[float | str] = []

    class Recorder:
        def __init__(self, patience_s: float) -> None:
            watched.append(patience_s)

        def alive(self) -> None:
            watched.append("alive")

        def close(self) -> None:
            watched.append("closed")

    monkeypatch.setattr(adapter_model, "Watchdog", Recorder)
    model = load(liveness_period_ms=10, hung_after_s="7")
    wait_for(lambda: watched.count("alive") > 3)
    model.finalize()
    assert watched[0] == pytest.approx(7.01)
    assert watched[-1] == "closed"


def test_an_adapter_that_is_not_decoupled_answers_once(load: Load, backend: Backend) -> None:
    model = load(liveness_period_ms=1, decoupled=False)
    request = generate([5, 6], liveness_probes=[True])
    refused = [
        generate([5], streaming=[True]),
        generate([5], [6]),
        generate([5], num_return_sequences=[2]),
    ]
    model.execute([request, *refused])
    time.sleep(0.02)
    assert request.responses == []  # no probe
    backend.send(tokens([7, 8]), None)
    answered(request, *refused)
    assert said(request) == [([7, 8], "stop")]
    for each in refused:
        (response,) = each.responses
        assert response.error is not None
        assert "decoupled_mode=false" in response.error.message
