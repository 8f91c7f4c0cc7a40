"""Bad input is refused with what is wrong and what would be right; others don't notice."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as grpcclient

from tests.integration.conftest import Server
from tests.integration.speaker import Speaker, Stream, tensor

pytestmark = pytest.mark.integration

CASES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "empty prompt": ({"text_input": ""}, ["text_input", "at least 1"]),
    "prompt past the context": ({"text_input": "a b " * 3000}, ["prompt has", "at most 2047"]),
    "no tokens": ({"max_tokens": 0}, ["max_tokens is 0", "at least 1"]),
    "negative tokens": ({"max_tokens": -5}, ["max_tokens is -5", "at least 1"]),
    "tokens beyond the context": ({"max_tokens": 2048}, ["max_tokens is 2048", "at most"]),
    "negative temperature": ({"temperature": -0.5}, ["temperature is -0.5", "0 or more"]),
    "temperature not a number": ({"temperature": float("nan")}, ["temperature", "0 or more"]),
    "infinite temperature": ({"temperature": float("inf")}, ["temperature", "finite"]),
    "top_p above 1": ({"top_p": 1.5}, ["top_p is 1.5", "between 0 and 1"]),
    "negative top_k": ({"top_k": -1}, ["top_k is -1", "0 or more"]),
    "no repetition penalty": ({"repetition_penalty": 0.0}, ["repetition_penalty", "above 0"]),
    "min above max": ({"min_tokens": 9, "max_tokens": 8}, ["min_tokens is 9", "max_tokens (8)"]),
    "beam search": ({"beam_width": 4}, ["beam_width", "not supported"]),
    "too many sequences": ({"num_return_sequences": 65}, ["num_return_sequences is 65", "64"]),
    "bias without weights": ({"embedding_bias_words": ["a"]}, ["embedding_bias_weights"]),
    "bias of another length": (
        {"embedding_bias_words": ["a", "b"], "embedding_bias_weights": [1.0]},
        ["one weight for each word"],
    ),
    "invalid UTF-8": ({"text_input": b"ab\xff"}, ["text_input", "UTF-8", "byte 2 is 0xff"]),
    "invalid UTF-8 in a word": ({"bad_words": [b"\xc3"]}, ["bad_words", "UTF-8"]),
    "context logits": ({"return_context_logits": True}, ["return_context_logits"]),
    "LoRA": ({"lora_task_id": 1}, ["lora_task_id", "not supported"]),
    "guided decoding": ({"guided_decoding_guide": "{}"}, ["guided_decoding_guide_type"]),
    "encoder text": ({"decoder_text_input": "a"}, ["decoder_text_input", "not supported"]),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_named(speaker: Speaker, case: str) -> None:
    inputs, words = CASES[case]
    text = inputs.get("text_input", "What is 2 + 2?")
    max_tokens = inputs.get("max_tokens", 16)
    others = {k: v for k, v in inputs.items() if k not in ("text_input", "max_tokens")}
    answer = speaker.ask(text, max_tokens, **others)
    assert not answer.results
    assert answer.error is not None
    for word in words:
        assert word in answer.error


def test_http_answers_with_400(triton: Server) -> None:
    response = httpx.post(
        f"{triton.http_url}/v2/models/ensemble/generate",
        json={"text_input": "a", "max_tokens": 0},
    )
    assert response.status_code == 400
    assert "max_tokens is 0; it must be at least 1" in response.json()["error"]


def test_a_false_flag_is_no_request_for_what_is_not_supported(speaker: Speaker) -> None:
    answer = speaker.ask("a", 4, return_context_logits=False, return_generation_logits=False)
    assert answer.error is None


def test_empty_words_are_no_words(speaker: Speaker) -> None:
    """TensorRT-LLM's clients send them where they have none."""
    answer = speaker.ask("a", 8, end_id=-1, stop_words=[""], bad_words=["", ""])
    assert answer.text == speaker.ask("a", 8, end_id=-1).text


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("max_tokens", np.array([[1, 2]], dtype=np.int32)),
        ("max_tokens", np.array([[16]], dtype=np.int64)),
        ("temperature", np.array([[1]], dtype=np.int32)),
        ("stream", np.array([True])),
    ],
    ids=["shape", "type", "type of an option", "rank"],
)
def test_wrong_shapes_and_types(triton: Server, name: str, values: Any) -> None:
    kinds = {"int32": "INT32", "int64": "INT64", "bool": "BOOL"}
    wrong = grpcclient.InferInput(name, list(values.shape), kinds[str(values.dtype)])
    wrong.set_data_from_numpy(values)
    inputs = [tensor("text_input", "a"), wrong]
    if name != "max_tokens":
        inputs.append(tensor("max_tokens", 4))
    answer = Stream(triton.grpc_url, inputs).answer()
    assert answer.error is not None
    assert name in answer.error


def test_a_missing_input_is_named(triton: Server) -> None:
    answer = Stream(triton.grpc_url, [tensor("text_input", "a")]).answer()
    assert answer.error is not None
    assert "max_tokens" in answer.error


def test_others_in_flight_are_untouched(triton: Server, speaker: Speaker) -> None:
    alone = speaker.ask("Count from 5 to 60.", 600, end_id=-1).text
    with triton.braked():
        stream = speaker.start("Count from 5 to 60.", 600, stream=True, end_id=-1)
        first, _ = stream.next()
        for case in ("no tokens", "invalid UTF-8", "prompt past the context", "beam search"):
            inputs, _ = CASES[case]
            asked = {"text": "a", "max_tokens": 4, **inputs}
            asked["text"] = asked.pop("text_input", asked["text"])
            assert speaker.ask(**asked).error
    assert first.as_numpy("text_output")[0] + stream.answer().text == alone
