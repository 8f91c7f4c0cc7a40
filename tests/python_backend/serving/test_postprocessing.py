"""The postprocessing model: pieces of many streams become safe text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from contract.models import POSTPROCESSING_MODEL
from tests.python_backend.serving.fake_triton import (
    InferenceRequest,
    MetricFamily,
    Tensor,
    make_request,
)
from tests.python_backend.serving.postprocessing_model import (
    FIRST,
    SAFE,
    STRICT,
    TEXT,
    TOKENIZER,
    model,
    piece,
    pieces,
    reasons,
    texts,
    verdicts,
)
from tests.python_backend.text.samples import sentencepiece

from python_backend.safety.scanner import RuleSet  # isort: skip
from python_backend.serving import postprocessing  # isort: skip
from python_backend.serving.answer import Answer, StreamContext  # isort: skip
from python_backend.safety.policy import Policy  # isort: skip
from python_backend.text.detokenizer import Vocabulary  # isort: skip

__all__ = ["model"]  # the fixture

VOCABULARY = Vocabulary(TOKENIZER)


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


@pytest.mark.parametrize("whole", [False, True])
def test_what_is_said_of_the_prompt_goes_with_the_first_response_and_names_the_tokens(
    model: postprocessing.TritonPythonModel, whole: bool
) -> None:
    """Though the first piece has no text of its own that may leave: a word may be an address."""
    ids = TOKENIZER.encode("write to", add_special_tokens=False).ids
    names = [VOCABULARY.text_of(token).encode() for token in ids]
    scores = np.arange(-1.0, -len(ids), -1.0, dtype=np.float32)
    first, *more = ids
    requests = [
        piece(
            [first],
            1,
            context=StreamContext(whole=whole),
            prompt_ids=[ids],
            prompt_log_probs=[scores.tolist()],
            prompt_top_log_prob_ids=[[[token, ids[0]] for token in ids[1:]]],
            prompt_top_log_probs=[[[-0.5, -1.0]] * (len(ids) - 1)],
        ),
        *(piece([token], 1) for token in more),
        piece([], 1, "stop"),
    ]
    model.execute(requests)
    answers = [each.outputs for request in requests for each in request.responses]
    told = answers[0]
    assert told["prompt_ids"].tolist() == [ids]
    assert told["prompt_token_texts"].tolist() == [names]
    assert told["prompt_log_probs"].tolist() == [scores.tolist()]
    assert told["prompt_top_tokens"].tolist() == [[[name, names[0]] for name in names[1:]]]
    assert len(answers) == 1 if whole else len(answers) > 1
    assert not {name for each in answers[1:] for name in each if name.startswith("prompt_")}


@pytest.mark.parametrize("has_ids", [True, False])
def test_how_likely_a_prompt_is_tells_nothing_that_the_policy_takes_out(
    model: postprocessing.TritonPythonModel, has_ids: bool
) -> None:
    """Nor anything at all where its tokens aren't known."""
    ids = TOKENIZER.encode("so 4000 0093 9348 4764", add_special_tokens=False).ids
    count = len(ids) - 1
    known: dict[str, Any] = {"prompt_ids": [ids]} if has_ids else {}
    request = piece(
        ids[:1],
        1,
        "stop",
        context=StreamContext(),
        **known,
        prompt_log_probs=[[-2.0] * count],
        prompt_top_log_prob_ids=[[[ids[0], ids[1]]] * count],
        prompt_top_log_probs=[[[-0.5, -1.0]] * count],
    )
    model.execute([request])
    told = request.responses[0].outputs
    scores = told["prompt_log_probs"].reshape(-1)
    assert scores[-1] == 1
    assert (scores[0] == -2) == has_ids
    hidden = scores == 1
    assert (told["prompt_top_log_prob_ids"][0][hidden] == -1).all()
    assert (told["prompt_top_log_probs"][0][hidden] == 1).all()
    assert set(told["prompt_top_tokens"][0][hidden].reshape(-1).tolist()) == {b""}
    assert (told["prompt_top_log_probs"][0][~hidden] < 0).all()
