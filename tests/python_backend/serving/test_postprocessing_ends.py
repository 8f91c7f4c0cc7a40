"""How answers end: by themselves, at a stop text, blocked, without a client, by an error."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.python_backend.serving.fake_triton import (
    InferenceRequest,
    MetricFamily,
)
from tests.python_backend.serving.postprocessing_model import (
    FIRST,
    STRICT,
    TOKENIZER,
    answers,
    model,
    piece,
    pieces,
    reasons,
    texts,
    verdicts,
)

from python_backend.safety.scanner import Scanner  # isort: skip
from python_backend.serving import postprocessing  # isort: skip
from python_backend.serving.answer import StreamContext  # isort: skip

__all__ = ["model"]  # the fixture


def test_a_liveness_probe_is_answered_with_nothing(
    model: postprocessing.TritonPythonModel,
) -> None:
    probe = piece([], 1, context=FIRST)
    model.execute([probe])
    assert probe.ended
    assert probe.responses == []


def test_the_engine_is_told_to_stop_where_the_client_went_away(
    model: postprocessing.TritonPythonModel,
) -> None:
    probe = piece([], 7, context=FIRST)
    probe.cancelled = True
    model.execute([probe])
    assert probe.responses == []
    (stop,) = InferenceRequest.made
    assert stop.model_name == "the_engine"
    assert stop.inputs["stop"].item() is True
    assert stop.inputs["sequence_id"].tolist() == [[7]]
    assert stop.inputs["client_gone"].item() is True


def test_a_probe_asks_however_lately_the_client_was_seen(
    model: postprocessing.TritonPythonModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postprocessing, "_CHECK_CLIENT_EVERY_S", 3600)
    model.execute([piece([70], 7, context=FIRST)])
    token, probe = piece([71], 7), piece([], 7)
    token.cancelled = probe.cancelled = True
    model.execute([token])
    assert InferenceRequest.made == []
    model.execute([probe])
    assert len(InferenceRequest.made) == 1


def test_an_answer_whose_client_went_away_ends_once(
    model: postprocessing.TritonPythonModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pieces that are still on their way are neither checked nor answered."""
    model.execute([piece([70], 7, context=FIRST)])
    monkeypatch.setattr(postprocessing, "_CHECK_CLIENT_EVERY_S", 0)
    later = [piece([71], 7), piece([72], 7), piece([], 7, "cancelled")]
    for request in later:
        request.cancelled = True
    model.execute(later)
    assert all(request.ended and not request.responses for request in later)
    assert len(InferenceRequest.made) == 1
    model.finalize()
    assert answers(finish_reason="cancelled") == 1
    assert answers(finish_reason="error") == 0


def test_an_answer_that_ends_without_a_word_is_forgotten(
    model: postprocessing.TritonPythonModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It timed out in the engine, or the engine died: postprocessing hears nothing of either."""
    model.execute([piece([70], sequence, context=FIRST) for sequence in range(40)])
    kept = model._streams
    assert len(kept) == 40
    heard_s = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: heard_s + 599)
    model.execute([piece([71], 39)])
    assert len(kept) == 40
    monkeypatch.setattr(time, "monotonic", lambda: heard_s + 601)
    model.execute([piece([71], 39)])
    assert list(kept) == [39]
    model.finalize()
    assert answers(finish_reason="error") == 39
    assert MetricFamily.made["trireme_open_answers"].value == 1


def test_what_has_ended_is_not_stopped_again(model: postprocessing.TritonPythonModel) -> None:
    request = piece([], 7, "cancelled", FIRST)
    request.cancelled = True
    model.execute([request])
    assert InferenceRequest.made == []


@pytest.mark.parametrize(("include", "text"), [(True, "The cat sat"), (False, "The cat ")])
def test_a_stop_text_ends_the_answer_and_the_engine(
    model: postprocessing.TritonPythonModel, include: bool, text: str
) -> None:
    context = StreamContext(stops=("dog", "sat"), include_stop=include)
    requests = pieces("The cat sat on the dog", 5, context)
    model.execute(requests)
    assert texts(requests) == text
    assert reasons(requests) == ["stop"]
    told = [each.outputs for request in requests for each in request.responses]
    assert [each["stop_text"].item() for each in told if "stop_text" in each] == [b"sat"]
    assert [stop.inputs["sequence_id"].item() for stop in InferenceRequest.made] == [5]
    assert all("client_gone" not in stop.inputs for stop in InferenceRequest.made)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("width", [1, 3, 40])
def test_tokens_behind_a_stop_text_are_not_counted_however_many_come_at_once(
    model: postprocessing.TritonPythonModel, width: int, whole: bool
) -> None:
    ids = TOKENIZER.encode("The cat sat on the dog and on the cat").ids
    context = StreamContext(stops=("sat",), whole=whole)
    requests = [
        piece(ids[i : i + width], 1, context=None if i else context, num_output_tokens=[[1]])
        for i in range(0, len(ids), width)
    ]
    model.execute(requests)
    responses = [response for request in requests for response in request.responses]
    counts = [response.outputs["num_output_tokens"].item() for response in responses]
    assert sum(counts) == len(TOKENIZER.encode("The cat sat").ids)
    assert texts(requests) == "The cat sat"


def test_what_is_held_at_the_longest_answer_s_end_does_not_leave(
    model: postprocessing.TritonPythonModel,
) -> None:
    ids = TOKENIZER.encode("call +44 20 7946 012").ids
    request = piece(ids, 1, "length", FIRST)
    model.execute([request])
    assert texts([request]) == "call [PHONE]"
    assert reasons([request]) == ["length"]
    assert [each["kind"] for each in verdicts([request])] == ["phone"]


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("log_probs", [False, True])
def test_no_stop_text_ends_the_first_tokens(
    model: postprocessing.TritonPythonModel, together: bool, log_probs: bool
) -> None:
    whole = "The cat sat on the cat"
    ids = TOKENIZER.encode(whole, add_special_tokens=False).ids
    found = set()
    for min_tokens in range(len(ids) + 2):
        early = TOKENIZER.decode(ids[:min_tokens])
        end = next((end for end in (7, 22) if end > len(early)), None)
        context = StreamContext(stops=("cat",), min_tokens=min_tokens)
        requests = [piece([], 90 + min_tokens, context=context)]
        for tokens in [ids] if together else [[token] for token in ids]:
            inputs: dict[str, Any] = (
                {"output_log_probs": [[[-1.0] * len(tokens)]]} if log_probs else {}
            )
            requests.append(piece(tokens, 90 + min_tokens, **inputs))
        requests.append(piece([], 90 + min_tokens, "length"))
        model.execute(requests)
        assert texts(requests) == whole[:end]
        assert reasons(requests) == ["length" if end is None else "stop"]
        found.add(end)
    assert found == {7, 22, None}


def test_a_blocked_answer_ends_before_what_blocks_it(
    model: postprocessing.TritonPythonModel,
) -> None:
    text = "a cat of PROJECT X"
    requests = pieces(text, parameters=STRICT)
    model.execute(requests)
    assert texts(requests) == "a cat of "
    assert reasons(requests) == ["content_filter"]
    assert [stop.inputs["sequence_id"].item() for stop in InferenceRequest.made] == [1]
    assert [(each["rule"], each["action"]) for each in verdicts(requests)] == [
        ("cats", "flag"),
        ("codename", "block"),
    ]


def test_an_answer_that_begins_with_its_prompt_is_not_stopped_by_it(
    model: postprocessing.TritonPythonModel,
) -> None:
    prompt, answer = (TOKENIZER.encode(text).ids for text in ("the cat; ", "a cat, a dog"))
    context = StreamContext(stops=("cat",), echo_tokens=len(prompt))
    request = piece([*prompt, *answer], 1, "length", context)
    model.execute([request])
    assert texts([request]) == "the cat; a cat"
    assert reasons([request]) == ["stop"]
    # An engine that streams, to be stopped at a stop text, sends no prompt: the context has it.
    said = StreamContext(stops=("cat",), whole=True, prompt=tuple(prompt))
    streamed = [
        piece([], 2, context=said),
        piece(answer[:1], 2),
        piece(answer[1:3], 2),
        piece(answer[3:], 2, "length"),
    ]
    model.execute(streamed)
    assert texts(streamed) == "the cat; a cat"
    assert reasons(streamed) == ["stop"]


@pytest.mark.parametrize("parameters", ["{}", '{"safety_policy": "gone"}'])
def test_an_answer_of_which_too_little_is_known_says_nothing(
    model: postprocessing.TritonPythonModel, parameters: str
) -> None:
    """Its beginning went with a process that died, or its policy was taken out of the file."""
    context = None if parameters == "{}" else FIRST
    first = piece([70], 1, context=context, parameters=parameters)
    requests = [first, piece([71], 1), piece([], 1, "cancelled")]
    model.execute(requests)
    assert texts(requests) == ""
    assert reasons(requests) == ["error"]
    assert len(InferenceRequest.made) == 1


def test_an_answer_that_can_not_be_checked_ends_and_says_no_more(
    model: postprocessing.TritonPythonModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = TOKENIZER.encode("The cat, sat").ids
    good = piece(ids[:3], 1, context=FIRST)
    model.execute([good])
    bad, later = piece(ids[3:], 1), piece([], 1, "stop")
    with monkeypatch.context() as broken:
        broken.setattr(Scanner, "add", lambda *_: 1 / 0)
        model.execute([bad])
    model.execute([later])
    assert texts([bad, later]) == ""
    assert reasons([good, bad, later]) == ["error"]
    assert len(InferenceRequest.made) == 1


def test_a_piece_that_fails_ends_its_own_stream_only(
    model: postprocessing.TritonPythonModel,
) -> None:
    bad, good = piece([70], 1, context=FIRST), piece([70], 2, "stop", FIRST)
    bad.tensors["sequence_id"].as_numpy().resize((1, 2), refcheck=False)
    model.execute([bad, good])
    assert bad.ended
    assert bad.responses[0].error is not None
    assert good.responses[0].error is None
