"""What is too much of an input is refused by preprocessing before it is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from contract.models import PREPROCESSING_MODEL
from python_backend.text.tokenizer import TextTokenizer
from tests.python_backend.serving.fake_triton import make_request
from tests.python_backend.serving.preprocessing_model import (
    TEMPLATE,
    answer,
    chat,
    refusal,
)

from python_backend.serving import preprocessing, prompts  # isort: skip
from python_backend.serving.preprocessing import TritonPythonModel  # isort: skip


@pytest.mark.parametrize("template", [None, TEMPLATE])
def test_a_text_that_cannot_fit_is_refused_before_it_is_read(
    load: Callable[..., TritonPythonModel],
    monkeypatch: pytest.MonkeyPatch,
    template: str | None,
) -> None:
    model = load(template, context=64)
    most = 64 * model._tokenizer.vocabulary.longest_token_bytes
    assert 64 < most < 64 * 32
    assert answer(model, "a").error is None
    monkeypatch.setattr(TextTokenizer, "encode", None)  # and so nothing is tokenized
    too_long = "context_length_exceeded: "
    expected = f"{too_long}text_input has 4000000 bytes; it must have at most {most}"
    assert refusal(model, b"\xff" * 4_000_000) == expected
    large = json.dumps([{"role": "user", "content": "a" * 4_000_000}])
    assert refusal(model, "", MESSAGES=chat(large)).startswith(f"{too_long}messages has 40000")
    tools = refusal(model, "", MESSAGES=chat(), TOOLS=[[b" " * 4_000_000]])
    assert tools.startswith(f"{too_long}tools has 4000000 bytes; it must have at most")


def test_a_text_with_too_many_tokens_is_refused_before_the_policy_reads_it(
    load: Callable[..., TritonPythonModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load("{{ messages[0].content }}", context=64)
    text = "q" * (64 * model._tokenizer.vocabulary.longest_token_bytes)
    assert answer(model, text[: 8 * 64]).error is None  # the engine says what is too much
    monkeypatch.setattr(prompts, "scan_text", None)
    too_long = "has more tokens than the context of 64 tokens has room for"
    assert refusal(model, text) == f"context_length_exceeded: text_input {too_long}"
    large = json.dumps([{"role": "user", "content": text}])
    expected = f"context_length_exceeded: messages {too_long}"
    assert refusal(model, "", MESSAGES=chat(large)) == expected


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"STOP_WORDS_DICT": [[b"a"] * 65]}, "stop_words has 65 texts; it must have at most 64"),
        (
            {"STOP_WORDS_DICT": [[b"a" * 4_000, b"b" * 97]]},
            "stop_words has 4097 bytes; it must have at most 4096",
        ),
        ({"BAD_WORDS_DICT": [[b"a"] * 1_025]}, "bad_words has 1025 texts"),
        ({"BAD_WORDS_DICT": [[b"a" * 70_000]]}, "bad_words has 70000 bytes"),
        (
            {"EMBEDDING_BIAS_WORDS": [[b"a"] * 1_025], "EMBEDDING_BIAS_WEIGHTS": [[1.0] * 1_025]},
            "embedding_bias_words has 1025 texts",
        ),
        (
            {"EMBEDDING_BIAS_IDS": [[1] * 4_097], "EMBEDDING_BIAS_WEIGHTS": [[1.0] * 4_097]},
            "embedding_bias_ids has 4097 ids; it must have at most 4096",
        ),
    ],
)
def test_words_and_biases_are_bounded(
    load: Callable[..., TritonPythonModel], inputs: dict[str, Any], message: str
) -> None:
    assert refusal(load(), "a", **inputs).startswith(message)


def test_bounds_hold_for_each_row_by_itself(load: Callable[..., TritonPythonModel]) -> None:
    words = [[b"a" * 3_000], [b"b" * 3_000]]
    assert answer(load(), "a", "b", STOP_WORDS_DICT=words).error is None


def test_parameters_are_bounded(load: Callable[..., TritonPythonModel]) -> None:
    message = "the request parameters have 70021 bytes; they must have at most 65536"
    assert refusal(load(), "a", policy="x" * 70_000) == message


def test_memory_of_a_large_request_is_given_back(
    load: Callable[..., TritonPythonModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    given_back: list[bool] = []
    monkeypatch.setattr(preprocessing, "give_back_memory", lambda: given_back.append(True))
    model = load(context=64)
    refusal(model, "a" * 100_000)
    assert not given_back
    refusal(model, "a" * 2_000_000)
    assert given_back


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("temprature", "'temprature' is neither an input nor a request parameter: did you mean"),
        ("max_tokens", "max_tokens is an input, and no request parameter"),
        ("safety_polcy", "did you mean safety_policy?"),
        ("stop_word", "did you mean stop_words?"),
    ],
)
def test_a_parameter_that_was_meant_to_be_an_input_is_not_dropped(
    load: Callable[..., TritonPythonModel], name: str, said: str
) -> None:
    """Triton's `generate` takes whatever is no input for one."""
    assert said in refusal_of({name: 1}, load())


def test_other_parameters_are_somebody_s_own(load: Callable[..., TritonPythonModel]) -> None:
    names = (
        "priority",
        "timeout",
        "triton_enable_empty_final_response",
        "sequence_id",
        "Streaming",
    )
    given = {**dict.fromkeys(names, 1), "x" * 5000: 1, "trace": "me", "probe": True, "share": "a"}
    assert refusal_of(given, load()) == ""


def refusal_of(parameters: dict[str, Any], model: TritonPythonModel) -> str:
    request = make_request(PREPROCESSING_MODEL, QUERY=[[b"a"]], REQUEST_OUTPUT_LEN=[[9]])
    request.parameters_json = json.dumps(parameters)
    (response,) = model.execute([request])
    return "" if response.error is None else response.error.message
