"""The postprocessing model: pieces of many streams become safe text."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract.models import POSTPROCESSING_MODEL
from tests.python_backend.serving.fake_triton import (
    InferenceRequest,
    MetricFamily,
    Request,
    Tensor,
    initialize_args,
    make_request,
)
from tests.python_backend.text.samples import byte_level, sentencepiece

from python_backend.safety.scanner import RuleSet, Scanner  # isort: skip
from python_backend.serving import postprocessing  # isort: skip
from python_backend.serving.answer import Answer, StreamContext  # isort: skip
from python_backend.safety.policy import Policy  # isort: skip
from python_backend.text.detokenizer import Vocabulary  # isort: skip

TOKENIZER = byte_level()
TEXT = "déjà 🐱, write to ana@acme.example or call +44 20 7946 0123 東京"
SAFE = "déjà 🐱, write to [EMAIL] or call [PHONE] 東京"
POLICIES = """
default: standard
policies:
  standard:
    rules:
      - {name: personal, find: personal_data, output: redact}
    refusals: ['^Sorry']
  strict:
    rules:
      - {name: codename, find: pattern, pattern: 'PRO[A-Z]{3}', output: block}
      - {name: cats, find: terms, terms: [cat], output: flag}
"""
STRICT = '{"safety_policy": "strict"}'


class Thread:
    """Does at once what a thread would do."""

    def __init__(self, target: Any, daemon: bool) -> None:
        self.start = target


@pytest.fixture
def model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[postprocessing.TritonPythonModel]:
    monkeypatch.setattr(postprocessing, "Thread", Thread)
    monkeypatch.setattr(postprocessing, "_CHECK_CLIENT_EVERY_S", 0.0)
    monkeypatch.setattr(InferenceRequest, "made", [])
    monkeypatch.setattr(MetricFamily, "made", {})
    folder = tmp_path / "tensorrt_llm" / "1"
    folder.mkdir(parents=True)
    TOKENIZER.save(str(folder / "tokenizer.json"))
    (tmp_path / "policies.yaml").write_text(POLICIES)
    model = postprocessing.TritonPythonModel()
    model.initialize(
        initialize_args(
            tmp_path / "postprocessing",
            policy_file=str(tmp_path / "policies.yaml"),
            engine_model="the_engine",
        )
    )
    yield model
    model.finalize()


def piece(
    tokens: list[int],
    sequence: int,
    reason: str = "",
    context: StreamContext | None = None,
    parameters: str = "{}",
    **inputs: Any,
) -> Request:
    """One piece; with a context it is a sequence's first."""
    if context is not None:
        inputs["stream_context"] = [[context.to_bytes()]]
    if reason:
        inputs["finish_reason"] = [[reason.encode()]]
    request = make_request(
        POSTPROCESSING_MODEL,
        TOKENS_BATCH=[[tokens]],
        SEQUENCE_LENGTH=[[len(tokens)]],
        sequence_id=[[sequence]],
        **inputs,
    )
    request.parameters_json = parameters
    return request


FIRST = StreamContext()


def answers(**labels: str) -> float:
    """How many answers were counted that ended so, under the policy ``standard``."""
    wanted = {"policy": "standard", **labels, "model": "postprocessing", "version": "1"}
    metric = MetricFamily.made["trireme_answers_total"].series.get(frozenset(wanted.items()))
    return 0 if metric is None else metric.value


def pieces(
    text: str, sequence: int = 1, context: StreamContext = FIRST, parameters: str = "{}"
) -> list[Request]:
    """A stream of single tokens that begins with a liveness probe and ends by itself."""
    ids = TOKENIZER.encode(text, add_special_tokens=False).ids
    return [
        piece([], sequence, context=context, parameters=parameters),
        *(piece([token], sequence) for token in ids),
        piece([], sequence, "stop"),
    ]


def texts(requests: list[Request]) -> str:
    """The text of all responses; each request is answered at most once, and ended."""
    assert all(request.ended and len(request.responses) <= 1 for request in requests)
    responses = [response for request in requests for response in request.responses]
    return b"".join(response.outputs["OUTPUT"].item() for response in responses).decode()


def verdicts(requests: list[Request]) -> list[dict[str, Any]]:
    return [
        verdict
        for request in requests
        for response in request.responses
        if "safety_verdicts" in response.outputs
        for verdict in json.loads(response.outputs["safety_verdicts"].item())
    ]


def reasons(requests: list[Request]) -> list[str]:
    """Why answers ended."""
    outputs = [response.outputs for request in requests for response in request.responses]
    return [each["finish_reason"].item().decode() for each in outputs if "finish_reason" in each]


@pytest.mark.parametrize(
    ("context", "expected"), [(StreamContext(), "is."), (StreamContext(goes_on=True), " is.")]
)
def test_an_answer_that_goes_on_keeps_its_first_space(
    context: StreamContext, expected: str
) -> None:
    tokenizer = sentencepiece()
    answer = Answer(
        Vocabulary(tokenizer),
        Policy("none", RuleSet([], "input"), RuleSet([], "output")),
        context,
        skip_special_tokens=True,
    )
    ids = tokenizer.encode("▁is.", add_special_tokens=False).ids
    assert answer.add(ids, "stop").text == expected


def test_a_stream_of_single_tokens_is_the_whole_text_redacted(
    model: postprocessing.TritonPythonModel,
) -> None:
    requests = pieces(TEXT)
    model.execute(requests)
    assert texts(requests) == SAFE
    assert reasons(requests) == ["stop"]
    found = verdicts(requests)
    assert [(each["kind"], TEXT[each["start"] : each["end"]]) for each in found] == [
        ("email", "ana@acme.example"),
        ("phone", "+44 20 7946 0123"),
    ]
    assert found[0] == {
        "rule": "personal",
        "kind": "email",
        "action": "redact",
        "side": "output",
        "start": 17,
        "end": 33,
    }


def test_streams_that_run_side_by_side_do_not_mix(
    model: postprocessing.TritonPythonModel,
) -> None:
    streams = [pieces(TEXT, sequence) for sequence in (1, 2, 3)]
    for step in zip(*streams, strict=True):
        model.execute(list(step))
    assert [texts(requests) for requests in streams] == [SAFE] * 3


def test_what_a_stream_held_back_goes_with_it(model: postprocessing.TritonPythonModel) -> None:
    ids = TOKENIZER.encode("to ana@acme").ids
    first, gone = piece(ids, 1, context=FIRST), piece([], 1, "stop")
    again = piece(ids[:1], 1, "stop", FIRST)
    model.execute([first, gone, again])
    assert texts([first, gone]) == "to ana@acme"
    assert texts([again]) == "t"


def test_padding_behind_the_tokens_is_not_text(model: postprocessing.TritonPythonModel) -> None:
    ids = TOKENIZER.encode("cat").ids
    request = piece([*ids, 70, 71], 1, "stop", FIRST)
    request.tensors["SEQUENCE_LENGTH"].as_numpy()[:] = len(ids)
    model.execute([request])
    assert texts([request]) == "cat"


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


def test_tokens_whose_text_is_held_back_bring_no_response(
    model: postprocessing.TritonPythonModel,
) -> None:
    ids = TOKENIZER.encode("ana ").ids
    requests = [
        piece([token], 1, context=FIRST if i == 0 else None, num_output_tokens=[[1]])
        for i, token in enumerate(ids)
    ]
    model.execute(requests)
    assert all(request.ended for request in requests)
    assert [len(request.responses) for request in requests] == [*[0] * (len(ids) - 1), 1]
    outputs = requests[-1].responses[0].outputs
    assert outputs["OUTPUT"].item() == b"ana "
    assert outputs["num_output_tokens"].item() == len(ids)
    assert "finish_reason" not in outputs


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


def test_a_client_that_wants_one_response_gets_one(
    model: postprocessing.TritonPythonModel,
) -> None:
    context = StreamContext(whole=True, stops=("sat",), verdicts=({"rule": "r"},))
    requests = pieces("The cat sat on", 1, context)
    for request in requests:
        if not request.tensors["TOKENS_BATCH"].as_numpy().size:
            continue
        request.tensors["num_output_tokens"] = Tensor("num_output_tokens", np.array([[1]]))
    model.execute(requests)
    (response,) = (response for request in requests for response in request.responses)
    assert response.outputs["OUTPUT"].tolist() == [b"The cat sat"]
    tokens = TOKENIZER.encode("The cat sat").ids
    assert response.outputs["num_output_tokens"].tolist() == [[len(tokens)]]
    assert verdicts(requests) == [{"rule": "r"}]


def test_log_probabilities_come_with_their_text_and_not_with_what_was_taken_out(
    model: postprocessing.TritonPythonModel,
) -> None:
    text = "é to ana@acme.example 🐱."
    ids = TOKENIZER.encode(text).ids
    requests = [
        piece(
            [token],
            1,
            context=FIRST if i == 0 else None,
            output_log_probs=[[[-0.5 - i]]],
            top_log_prob_ids=[[[[token, 70]]]],
            top_log_probs=[[[[-0.5 - i, -9.0]]]],
        )
        for i, token in enumerate(ids)
    ]
    none: dict[str, Any] = {
        "top_log_prob_ids": np.zeros((1, 1, 0, 2)),
        "top_log_probs": np.zeros((1, 1, 0, 2)),
    }
    end = piece([], 1, "stop", output_log_probs=np.zeros((1, 1, 0)), **none)
    model.execute([*requests, end])
    sent: list[bytes] = []
    responses = [response for request in [*requests, end] for response in request.responses]
    for outputs in (response.outputs for response in responses):
        shown = outputs["output_tokens"].reshape(-1).tolist()
        assert outputs["output_log_probs"].shape == (1, 1, len(shown))
        if shown:
            assert outputs["top_tokens"].shape == (1, 1, len(shown), 2)
            assert outputs["top_tokens"][0, 0, :, 0].tolist() == shown
            assert np.array_equal(
                outputs["top_log_probs"][0, 0, :, 0], outputs["output_log_probs"][0, 0]
            )
        sent += shown
    spelt = b"".join(sent)
    assert spelt.startswith(rb"bytes:\xc3bytes:\xa9 to")
    assert b"ana" not in spelt
    assert b"acme" not in spelt
    assert rb"\xf0\x9f" in spelt
    assert spelt.endswith(b".")


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


def test_all_beams_of_a_prompt_are_answers(model: postprocessing.TritonPythonModel) -> None:
    rows = [TOKENIZER.encode(text).ids for text in ("to ana@acme.example", "a cat")]
    width = max(map(len, rows))
    request = make_request(
        POSTPROCESSING_MODEL,
        TOKENS_BATCH=[[row + [0] * (width - len(row)) for row in rows]],
        SEQUENCE_LENGTH=[[len(row) for row in rows]],
        sequence_id=[[1]],
        finish_reason=[[b"length"]],
        stream_context=[[b""]],
    )
    model.execute([request])
    (response,) = request.responses
    assert response.outputs["OUTPUT"].tolist() == [b"to [EMAIL]", b"a cat"]
    assert response.outputs["finish_reason"].tolist() == [[b"length"]]


def test_statistics_travel_along(model: postprocessing.TritonPythonModel) -> None:
    request = piece([70], 1, "stop", FIRST, cum_log_probs=[[-1.5]], num_input_tokens=[[3]])
    model.execute([request])
    outputs = request.responses[0].outputs
    assert outputs.keys() == {"OUTPUT", "finish_reason", "cum_log_probs", "num_input_tokens"}
    assert np.array_equal(outputs["cum_log_probs"], [[np.float32(-1.5)]])


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


def test_quality_is_counted_by_policy(model: postprocessing.TritonPythonModel) -> None:
    model.execute(pieces("Sorry, to ana@acme.example", 1))
    model.execute(pieces("a cat a cat a cat a cat", 2, parameters=STRICT))
    model.finalize()

    def value(name: str, **labels: str) -> float:
        wanted = {**labels, "model": "postprocessing", "version": "1"}
        series = MetricFamily.made[f"trireme_{name}"].series
        return series[frozenset(wanted.items())].value

    assert value("answers_total", policy="standard", finish_reason="stop") == 1
    assert value("refusals_total", policy="standard") == 1
    assert value("answers_touched_total", policy="standard", action="redact") == 1
    assert value("answers_touched_total", policy="strict", action="flag") == 1
    assert value("answer_repeated_ngrams_total", policy="standard") == 0
    assert value("answer_repeated_ngrams_total", policy="strict") > 0
    found = {"rule": "cats", "kind": "cats", "action": "flag", "side": "output"}
    assert value("safety_matches_total", policy="strict", **found) == 4
    lengths = MetricFamily.made["trireme_answer_tokens"].series.values()
    assert all(len(each.observed) == 1 for each in lengths)


def test_a_program_may_ask_for_the_text_of_tokens_alone(
    model: postprocessing.TritonPythonModel,
) -> None:
    ids = TOKENIZER.encode(TEXT, add_special_tokens=False).ids
    request = make_request(POSTPROCESSING_MODEL, TOKENS_BATCH=[[ids]], SEQUENCE_LENGTH=[[len(ids)]])
    model.execute([request])
    assert texts([request]) == SAFE


def test_where_it_is_not_decoupled_every_request_has_one_response(
    model: postprocessing.TritonPythonModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "_settings", model._settings.model_copy(update={"decoupled": False}))
    ids = TOKENIZER.encode(TEXT, add_special_tokens=False).ids
    whole = piece(ids, 1, "stop", context=StreamContext(("write",)))
    left = piece(ids, 2, "stop", context=FIRST)
    left.cancelled = True
    model.execute([whole, left])
    assert texts([whole]) == "déjà 🐱, write"
    (response,) = left.responses
    assert response.outputs == {}
    assert left.ended
    assert InferenceRequest.made == []  # nothing to stop: the engine is done


@pytest.mark.parametrize("lengths", [[[1, 1, 1]], [[]]])
def test_there_is_a_length_for_each_row(
    model: postprocessing.TritonPythonModel, lengths: list[list[int]]
) -> None:
    request = make_request(POSTPROCESSING_MODEL, TOKENS_BATCH=[[[5]]], SEQUENCE_LENGTH=lengths)
    model.execute([request])
    (response,) = request.responses
    assert response.error is not None
    assert f"SEQUENCE_LENGTH has {len(lengths[0])} values" in response.error.message
