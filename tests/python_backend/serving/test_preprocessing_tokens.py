"""Prompts that are tokens, and texts with and without the tokenizer's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from contract.models import PREPROCESSING_MODEL
from tests.python_backend.serving.fake_triton import make_request
from tests.python_backend.serving.preprocessing_model import (
    END,
    TOKENIZER,
    answer,
    chat,
    refusal,
)
from tests.python_backend.text.samples import byte_level

from python_backend.serving.preprocessing import TritonPythonModel  # isort: skip


def test_tokens_are_a_prompt_as_they_are(load: Callable[..., TritonPythonModel]) -> None:
    ids = [END, *TOKENIZER.encode("The cat").ids, END]
    outputs = answer(load(), "", PROMPT_TOKEN_IDS=[ids]).outputs
    assert outputs["INPUT_ID"].tolist() == [ids]
    assert outputs["REQUEST_INPUT_LEN"].tolist() == [[len(ids)]]


def test_the_policy_sees_the_text_of_tokens(load: Callable[..., TritonPythonModel]) -> None:
    model = load()
    ids = TOKENIZER.encode("To ana@acme.example").ids
    outputs = answer(model, "", policy="strict", PROMPT_TOKEN_IDS=[ids]).outputs
    assert outputs["INPUT_ID"].tolist() == [TOKENIZER.encode("To [EMAIL]").ids]
    blocked = answer(model, "", policy="strict", PROMPT_TOKEN_IDS=[TOKENIZER.encode("dog").ids])
    assert blocked.error is not None
    assert "content_filter" in blocked.error.message


@pytest.mark.parametrize(
    ("texts", "inputs", "message"),
    [
        ("", {"PROMPT_TOKEN_IDS": [[]]}, "prompt_token_ids is empty; it needs at least 1 token"),
        ("", {"PROMPT_TOKEN_IDS": [[-1]]}, "prompt_token_ids must be between 0 and "),
        ("", {"PROMPT_TOKEN_IDS": [[2**31 - 1]]}, "prompt_token_ids must be between 0 and "),
        ("a", {"PROMPT_TOKEN_IDS": [[5]]}, "text_input must be empty beside prompt_token_ids"),
        (
            "",
            {"PROMPT_TOKEN_IDS": [[5]], "MESSAGES": chat()},
            "prompt_token_ids and messages are both",
        ),
    ],
)
def test_tokens_that_are_no_prompt_are_refused(
    load: Callable[..., TritonPythonModel], texts: str, inputs: dict[str, Any], message: str
) -> None:
    assert refusal(load(), texts, **inputs).startswith(message)


def test_more_tokens_than_the_context_has_are_refused(
    load: Callable[..., TritonPythonModel],
) -> None:
    said = refusal(load(context=8), "", PROMPT_TOKEN_IDS=[[5] * 9])
    assert said == (
        "context_length_exceeded: prompt_token_ids has 9 tokens; the context has room for 8"
    )


def with_beginning() -> Tokenizer:
    """A tokenizer that begins every text with a token of its own."""
    tokenizer = byte_level()
    tokenizer.post_processor = TemplateProcessing(
        single="<|end|> $A", special_tokens=[("<|end|>", END)]
    )
    return tokenizer


@pytest.mark.parametrize(
    ("parameters", "begins"),
    [
        ("{}", True),
        ('{"add_special_tokens": true}', True),
        ('{"add_special_tokens": false}', False),
    ],
)
def test_a_request_says_whether_a_text_gets_special_tokens(
    load: Callable[..., TritonPythonModel], parameters: str, begins: bool
) -> None:
    model = load(tokenizer=with_beginning())
    request = make_request(PREPROCESSING_MODEL, QUERY=[[b"cat"]], REQUEST_OUTPUT_LEN=[[9]])
    request.parameters_json = parameters
    (response,) = model.execute([request])
    ids = response.outputs["INPUT_ID"].tolist()[0]
    assert ids == [*([END] if begins else []), *TOKENIZER.encode("cat").ids]


def test_a_word_is_no_answer_to_that(load: Callable[..., TritonPythonModel]) -> None:
    request = make_request(PREPROCESSING_MODEL, QUERY=[[b"cat"]], REQUEST_OUTPUT_LEN=[[9]])
    request.parameters_json = '{"add_special_tokens": "yes"}'
    (response,) = load().execute([request])
    assert response.error is not None
    assert "add_special_tokens is 'yes'; it must be true or false" in response.error.message
