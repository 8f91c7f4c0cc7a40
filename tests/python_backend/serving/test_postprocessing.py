"""The postprocessing model: pieces of many streams become safe text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from python_backend.contract import POSTPROCESSING_MODEL
from tests.python_backend.serving.fake_triton import (
    InferenceRequest,
    Request,
    initialize_args,
    make_request,
)
from tests.python_backend.text.samples import byte_level

from python_backend.serving import postprocessing  # isort: skip

TOKENIZER = byte_level()
TEXT = "déjà 🐱, write to ana@acme.example or call +44 20 7946 0123 東京"
SAFE = "déjà 🐱, write to [EMAIL] or call [PHONE] 東京"


class Thread:
    """Does at once what a thread would do."""

    def __init__(self, target: Any, daemon: bool) -> None:
        self.start = target


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> postprocessing.TritonPythonModel:
    monkeypatch.setattr(postprocessing, "Thread", Thread)
    monkeypatch.setattr(postprocessing, "_CHECK_CLIENT_EVERY_S", 0.0, raising=False)
    monkeypatch.setattr(InferenceRequest, "made", [])
    folder = tmp_path / "tensorrt_llm" / "1"
    folder.mkdir(parents=True)
    TOKENIZER.save(str(folder / "tokenizer.json"))
    model = postprocessing.TritonPythonModel()
    model.initialize(initialize_args(tmp_path / "postprocessing"))
    return model


def piece(tokens: list[int], sequence: int, reason: str = "", **inputs: Any) -> Request:
    return make_request(
        POSTPROCESSING_MODEL,
        TOKENS_BATCH=[[tokens]],
        SEQUENCE_LENGTH=[[len(tokens)]],
        sequence_id=[[sequence]],
        finish_reason=[[reason.encode()]],
        **inputs,
    )


def texts(requests: list[Request]) -> str:
    """The text of all responses; each request is answered at most once, and ended."""
    assert all(request.ended and len(request.responses) <= 1 for request in requests)
    responses = [response for request in requests for response in request.responses]
    return b"".join(response.outputs["OUTPUT"].item() for response in responses).decode()


def test_a_stream_of_single_tokens_is_the_whole_text_redacted(
    model: postprocessing.TritonPythonModel,
) -> None:
    ids = TOKENIZER.encode(TEXT).ids
    requests = [piece([token], sequence=1) for token in ids] + [piece([], 1, "stop")]
    model.execute(requests)
    assert texts(requests) == SAFE
    assert [request.responses[0].outputs["finish_reason"].item() for request in requests] == [
        *[b""] * len(ids),
        b"stop",
    ]


def test_streams_that_run_side_by_side_do_not_mix(
    model: postprocessing.TritonPythonModel,
) -> None:
    ids = TOKENIZER.encode(TEXT).ids
    streams: dict[int, list[Request]] = {1: [], 2: [], 3: []}
    for token in ids:
        for sequence, requests in streams.items():
            requests.append(piece([token], sequence))
            model.execute(requests[-1:])
    for sequence, requests in streams.items():
        requests.append(piece([], sequence, "length"))
        model.execute(requests[-1:])
        assert texts(requests) == SAFE


def test_what_a_stream_held_back_goes_with_it(model: postprocessing.TritonPythonModel) -> None:
    ids = TOKENIZER.encode("to ana@acme").ids
    first, gone, again = piece(ids, 1), piece([], 1, "stop"), piece(ids[:1], 1, "stop")
    model.execute([first, gone, again])
    assert texts([first, gone]) == "to ana@acme"
    assert texts([again]) == "t"


def test_padding_behind_the_tokens_is_not_text(model: postprocessing.TritonPythonModel) -> None:
    ids = TOKENIZER.encode("cat").ids
    request = piece([*ids, 70, 71], 1, "stop")
    request.tensors["SEQUENCE_LENGTH"].as_numpy()[:] = len(ids)
    model.execute([request])
    assert texts([request]) == "cat"


def test_a_liveness_probe_is_answered_with_nothing(
    model: postprocessing.TritonPythonModel,
) -> None:
    probe = piece([], 1)
    model.execute([probe])
    assert probe.ended
    assert probe.responses == []


def test_the_engine_is_told_to_stop_where_the_client_went_away(
    model: postprocessing.TritonPythonModel,
) -> None:
    probe = piece([], 7, cancelled=True)
    model.execute([probe])
    assert probe.responses == []
    (stop,) = InferenceRequest.made
    assert stop.model_name == "tensorrt_llm"
    assert stop.inputs["stop"].item() is True
    assert stop.inputs["sequence_id"].tolist() == [[7]]


def test_what_has_ended_is_not_stopped_again(model: postprocessing.TritonPythonModel) -> None:
    model.execute([piece([], 7, "cancelled", cancelled=True)])
    assert InferenceRequest.made == []


def test_statistics_travel_along(model: postprocessing.TritonPythonModel) -> None:
    request = piece([70], 1, "stop", cum_log_probs=[[-1.5]], num_input_tokens=[[3]])
    model.execute([request])
    outputs = request.responses[0].outputs
    assert outputs.keys() == {"OUTPUT", "finish_reason", "cum_log_probs", "num_input_tokens"}
    assert np.array_equal(outputs["cum_log_probs"], [[np.float32(-1.5)]])


def test_each_response_of_another_engine_is_a_text_of_its_own(
    model: postprocessing.TritonPythonModel,
) -> None:
    rows = [TOKENIZER.encode(text).ids for text in ("to ana@acme.example", "a cat")]
    width = max(map(len, rows))
    request = make_request(
        POSTPROCESSING_MODEL,
        TOKENS_BATCH=[[row + [0] * (width - len(row)) for row in rows]],
        SEQUENCE_LENGTH=[[len(row) for row in rows]],
    )
    model.execute([request])
    (response,) = request.responses
    assert response.outputs.keys() == {"OUTPUT"}
    assert response.outputs["OUTPUT"].tolist() == [b"to [EMAIL]", b"a cat"]


def test_a_piece_that_fails_ends_its_own_stream_only(
    model: postprocessing.TritonPythonModel,
) -> None:
    bad, good = piece([70], 1), piece([70], 2, "stop")
    bad.tensors["sequence_id"].as_numpy().resize((1, 2), refcheck=False)
    model.execute([bad, good])
    assert bad.ended
    assert bad.responses[0].error is not None
    assert good.responses[0].error is None
