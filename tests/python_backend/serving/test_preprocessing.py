"""The preprocessing model: texts become tokens, and a wrong one is refused alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from python_backend.contract import PREPROCESSING_MODEL
from tests.python_backend.serving.fake_triton import (
    InferenceResponse,
    TritonError,
    initialize_args,
    make_request,
)
from tests.python_backend.text.samples import byte_level

from python_backend.serving.preprocessing import TritonPythonModel  # isort: skip

TOKENIZER = byte_level()
END, PAD = (TOKENIZER.token_to_id(token) for token in ("<|end|>", "<|é|>"))
CONFIG = '{"eos_token": "<|end|>", "pad_token": "<|é|>"}'


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., TritonPythonModel]:
    """Makes the model with a tokenizer and, if wanted, a chat template."""

    def load(template: str | None = None, **parameters: str) -> TritonPythonModel:
        folder = tmp_path / "tensorrt_llm" / "1"
        folder.mkdir(parents=True)
        TOKENIZER.save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(CONFIG, encoding="utf-8")
        if template is not None:
            (folder / "chat_template.jinja").write_text(template)
        model = TritonPythonModel()
        model.initialize(initialize_args(tmp_path / "preprocessing", **parameters))
        return model

    return load


def answer(model: TritonPythonModel, *texts: str | bytes, **inputs: Any) -> InferenceResponse:
    queries = [[text.encode() if isinstance(text, str) else text] for text in texts]
    inputs.setdefault("REQUEST_OUTPUT_LEN", [[9]] * len(texts))
    request = make_request(PREPROCESSING_MODEL, QUERY=queries, **inputs)
    (response,) = model.execute([request])
    return response


def refusal(model: TritonPythonModel, *texts: str | bytes, **inputs: Any) -> str:
    error = answer(model, *texts, **inputs).error
    assert error is not None
    assert error.code == TritonError.INVALID_ARG
    return error.message


def test_outputs_are_of_the_contract(load: Callable[..., TritonPythonModel]) -> None:
    outputs = answer(load(), "The cat", "dog").outputs
    assert outputs.keys() == set(PREPROCESSING_MODEL.output_names())
    types = {"INT32": np.int32, "FP32": np.float32, "BOOL": np.bool_}
    for tensor in PREPROCESSING_MODEL.outputs:
        array = outputs[tensor.name]
        assert array.dtype == types[tensor.data_type]
        assert array.shape[0] == 2
        for size, declared in zip(array.shape[1:], tensor.dims, strict=True):
            assert declared in (-1, size)


def test_prompts_are_padded_to_the_longest(load: Callable[..., TritonPythonModel]) -> None:
    long, short = (TOKENIZER.encode(text).ids for text in ("The cat sat", "dog"))
    outputs = answer(load(), "The cat sat", "dog").outputs
    padding = [PAD] * (len(long) - len(short))
    assert outputs["INPUT_ID"].tolist() == [long, short + padding]
    assert outputs["REQUEST_INPUT_LEN"].tolist() == [[len(long)], [len(short)]]
    assert outputs["REQUEST_OUTPUT_LEN"].tolist() == [[9], [9]]


def test_end_and_padding_are_the_tokenizers_where_the_client_names_none(
    load: Callable[..., TritonPythonModel],
) -> None:
    model = load()
    outputs = answer(model, "a").outputs
    assert (outputs["OUT_END_ID"].tolist(), outputs["OUT_PAD_ID"].tolist()) == ([[END]], [[PAD]])
    outputs = answer(model, "a", END_ID=[[-1]], PAD_ID=[[0]]).outputs
    assert (outputs["OUT_END_ID"].tolist(), outputs["OUT_PAD_ID"].tolist()) == ([[-1]], [[0]])


def test_tensorrt_llms_own_example_sends_empty_words(
    load: Callable[..., TritonPythonModel],
) -> None:
    outputs = answer(load(), "a", BAD_WORDS_DICT=[[b""]], STOP_WORDS_DICT=[[b""]]).outputs
    assert outputs["BAD_WORDS_IDS"].shape == outputs["STOP_WORDS_IDS"].shape == (1, 2, 0)


def test_words_become_word_lists(load: Callable[..., TritonPythonModel]) -> None:
    q, z = (TOKENIZER.token_to_id(letter) for letter in "qz")
    outputs = answer(
        load(), "a", "b", STOP_WORDS_DICT=[[b"q", b"z"], [b"zq", b""]], BAD_WORDS_DICT=[[b"q"]] * 2
    ).outputs
    assert outputs["STOP_WORDS_IDS"].tolist() == [[[q, z], [1, 2]], [[z, q], [2, -1]]]
    assert outputs["BAD_WORDS_IDS"].tolist() == [[[q], [1]], [[q], [1]]]


def test_the_weights_of_a_words_tokens_add_up(load: Callable[..., TritonPythonModel]) -> None:
    q, z = (TOKENIZER.token_to_id(letter) for letter in "qz")
    outputs = answer(
        load(),
        "a",
        EMBEDDING_BIAS_WORDS=[[b"qzq", b"z"]],
        EMBEDDING_BIAS_WEIGHTS=[[0.5, -2.0]],
    ).outputs
    expected = np.zeros((1, TOKENIZER.get_vocab_size()))
    expected[0, [q, z]] = [1.0, -1.5]
    assert np.array_equal(outputs["EMBEDDING_BIAS"], expected)


@pytest.mark.parametrize(
    "inputs",
    [
        {"EMBEDDING_BIAS_WORDS": [[b"q"]]},
        {"EMBEDDING_BIAS_WEIGHTS": [[1.0]]},
        {"EMBEDDING_BIAS_WORDS": [[b"q"]], "EMBEDDING_BIAS_WEIGHTS": [[1.0, 2.0]]},
    ],
)
def test_bias_words_and_weights_come_together(
    load: Callable[..., TritonPythonModel], inputs: dict[str, Any]
) -> None:
    assert refusal(load(), "a", **inputs) == (
        "embedding_bias_words and embedding_bias_weights must come together, "
        "one weight for each word"
    )


TEMPLATE = "<|im start|>{{ messages[0].role }}: {{ messages[0].content }}"


@pytest.mark.parametrize(
    ("text", "setting", "prompt"),
    [
        ("cat", "auto", "<|im start|>user: cat"),
        ("<|im start|>user: cat", "auto", "<|im start|>user: cat"),
        ("cat", "off", "cat"),
    ],
)
def test_a_plain_text_is_wrapped_in_the_chat_template(
    load: Callable[..., TritonPythonModel], text: str, setting: str, prompt: str
) -> None:
    ids = answer(load(TEMPLATE, chat_template=setting), text).outputs["INPUT_ID"]
    assert ids.tolist() == [TOKENIZER.encode(prompt).ids]


CHAT = '[{"role": "user", "content": "cat"}]'


def chat(messages: str = CHAT) -> list[list[bytes]]:
    return [[messages.encode()]]


def test_messages_are_rendered_and_tokenized(load: Callable[..., TritonPythonModel]) -> None:
    model = load(TEMPLATE + "{{ mode }}{{ tools[0].function.name }}")
    tools = b'[{"type": "function", "function": {"name": "now"}}]'
    ids = answer(
        model, "", MESSAGES=chat(), TOOLS=[[tools]], CHAT_TEMPLATE_KWARGS=[[b'{"mode": "x"}']]
    ).outputs["INPUT_ID"]
    assert ids.tolist() == [TOKENIZER.encode("<|im start|>user: catxnow").ids]


@pytest.mark.parametrize(
    ("text", "inputs", "message"),
    [
        ("a", {"MESSAGES": chat()}, "text_input must be empty beside messages"),
        ("a", {"TOOLS": [[b"[]"]]}, "tools and chat_template_kwargs need messages"),
        ("", {"MESSAGES": chat("[]")}, "messages: list should have at least 1 item"),
        ("", {"MESSAGES": [[b"\xff"]]}, "messages is not valid UTF-8: byte 0 is 0xff"),
    ],
)
def test_a_wrong_chat_is_refused(
    load: Callable[..., TritonPythonModel], text: str, inputs: dict[str, Any], message: str
) -> None:
    assert refusal(load(TEMPLATE), text, **inputs).startswith(message)


def test_a_chat_needs_a_template(load: Callable[..., TritonPythonModel]) -> None:
    assert refusal(load(), "", MESSAGES=chat()) == "messages: the checkpoint has no chat template"


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"DECODER_QUERY": [[b"a"]]}, "decoder_text_input is not supported"),
        ({"PROMPT_TABLE_EXTRA_ID": [[1]]}, "prompt_table_extra_id is not supported"),
        (
            {"STOP_WORDS_DICT": [[b"a\xff"]]},
            "stop_words is not valid UTF-8: byte 1 is 0xff",
        ),
    ],
)
def test_a_wrong_input_has_the_name_that_the_client_knows(
    load: Callable[..., TritonPythonModel], inputs: dict[str, Any], message: str
) -> None:
    assert refusal(load(), "a", **inputs) == message


def test_texts_that_are_none_are_refused(load: Callable[..., TritonPythonModel]) -> None:
    model = load()
    assert refusal(model, "") == "text_input is empty; it needs at least 1 character"
    assert refusal(model, b"\xc3(") == "text_input is not valid UTF-8: byte 0 is 0xc3"


def test_a_wrong_request_is_refused_alone(load: Callable[..., TritonPythonModel]) -> None:
    queries: list[list[list[bytes]]] = [[[b""]], [[b"cat"]]]
    requests = [
        make_request(PREPROCESSING_MODEL, QUERY=query, REQUEST_OUTPUT_LEN=[[1]])
        for query in queries
    ]
    wrong, right = load().execute(requests)
    assert wrong.error is not None
    assert right.error is None
