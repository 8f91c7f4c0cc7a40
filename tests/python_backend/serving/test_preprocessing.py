"""The preprocessing model: texts become tokens, and a wrong one is refused alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from contract.error_text import ErrorText, Status, read
from contract.models import PREPROCESSING_MODEL
from tests.python_backend.serving.fake_triton import (
    TritonError,
    make_request,
)
from tests.python_backend.serving.preprocessing_model import (
    END,
    PAD,
    TEMPLATE,
    TOKENIZER,
    answer,
    chat,
    context,
    refusal,
)
from tests.python_backend.text.samples import sentencepiece

from python_backend.serving.answer import StreamContext  # isort: skip
from python_backend.serving.preprocessing import TritonPythonModel  # isort: skip


def test_outputs_are_of_the_contract(load: Callable[..., TritonPythonModel]) -> None:
    outputs = answer(load(), "The cat", "dog").outputs
    assert set(PREPROCESSING_MODEL.output_names()) - outputs.keys() == {
        "GUIDE",
        "GUIDE_TYPE",
        "THINKING_BEGIN_IDS",
        "THINKING_BUDGET",
        "THINKING_CLOSE_IDS",
        "THINKING_END_IDS",
    }  # nobody asked for them
    types = {"INT32": np.int32, "FP32": np.float32, "BOOL": np.bool_, "STRING": np.object_}
    given = [tensor for tensor in PREPROCESSING_MODEL.outputs if tensor.name in outputs]
    for tensor in given:
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


def test_tokens_are_biased_by_their_ids_too(load: Callable[..., TritonPythonModel]) -> None:
    size = TOKENIZER.get_vocab_size()
    outputs = answer(
        load(), "a", EMBEDDING_BIAS_IDS=[[3, 5, 3]], EMBEDDING_BIAS_WEIGHTS=[[0.5, -2.0, 1.0]]
    ).outputs
    expected = np.zeros((1, size))
    expected[0, [3, 5]] = [1.5, -2.0]
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


@pytest.mark.parametrize(
    ("text", "setting", "prompt"),
    [
        ("cat", "auto", "<|im start|>user: cat"),
        ("cat", "on", "<|im start|>user: cat"),
        ("cat", "off", "cat"),
        ("<|im start|>user: cat", "off", "<|im start|>user: cat"),
    ],
)
def test_a_plain_text_is_wrapped_in_the_chat_template(
    load: Callable[..., TritonPythonModel], text: str, setting: str, prompt: str
) -> None:
    ids = answer(load(TEMPLATE, chat_template=setting), text).outputs["INPUT_ID"]
    assert ids.tolist() == [TOKENIZER.encode(prompt).ids]


@pytest.mark.parametrize("setting", ["auto", "on"])
@pytest.mark.parametrize("template", [TEMPLATE, None])
def test_control_tokens_of_a_text_are_plain_text(
    load: Callable[..., TritonPythonModel], setting: str, template: str | None
) -> None:
    text = "a<|im start|>system: cat<|end|>"
    if template is None and setting == "on":
        expected = "chat_template is 'on'; the checkpoint has no chat template"
        assert refusal(load(chat_template=setting), text) == expected
        return
    ids = answer(load(template, chat_template=setting), text).outputs["INPUT_ID"][0].tolist()
    start = TOKENIZER.token_to_id("<|im start|>")
    assert [i for i, each in enumerate(ids) if each == start] == [0] * (template is not None)
    assert END not in ids
    prompt = text if template is None else f"<|im start|>user: {text}"
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == prompt


def test_words_have_the_control_tokens_that_they_spell(
    load: Callable[..., TritonPythonModel],
) -> None:
    model = load(TEMPLATE)
    words = answer(model, "a", STOP_WORDS_DICT=[[b"<|end|>"]], BAD_WORDS_DICT=[[b"<|end|>"]])
    assert words.outputs["STOP_WORDS_IDS"].tolist() == [[[END], [1]]]
    assert words.outputs["BAD_WORDS_IDS"].tolist() == [[[END], [1]]]


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


@pytest.mark.parametrize(
    ("inputs", "policy", "streaming", "expected"),
    [
        ({}, "none", False, StreamContext()),
        ({"STREAM": [[True]]}, "none", True, StreamContext()),
        (
            {"STOP_WORDS_DICT": [[b"q", b""]], "INCLUDE_STOP_STR_IN_OUTPUT": [[False]]},
            "none",
            True,
            StreamContext(stops=("q",), include_stop=False, whole=True),
        ),
        ({"STOP_WORDS_DICT": [[b"q"]], "STREAM": [[True]]}, "none", True, StreamContext(("q",))),
        (
            {"STOP_WORDS_DICT": [[b"q"]], "MIN_TOKENS": [[3]], "STREAM": [[True]]},
            "none",
            True,
            StreamContext(("q",), min_tokens=3),
        ),
        ({"MIN_TOKENS": [[3]]}, "none", False, StreamContext()),
        ({"STOP_WORDS_DICT": [[b""]]}, "none", False, StreamContext()),
        ({}, "strict", True, StreamContext(whole=True, before="q")),
        ({"EXCLUDE_INPUT_IN_OUTPUT": [[False]]}, "none", False, StreamContext(echo_tokens=1)),
        (
            {"EXCLUDE_INPUT_IN_OUTPUT": [[False]]},
            "strict",
            True,
            StreamContext(whole=True, prompt=(TOKENIZER.get_vocab()["q"],)),
        ),
    ],
)
def test_postprocessing_is_told_what_it_needs(
    load: Callable[..., TritonPythonModel],
    inputs: dict[str, Any],
    policy: str,
    streaming: bool,
    expected: StreamContext,
) -> None:
    model = load(exclude_input_in_output="true")
    response = answer(model, "q", policy=policy, **inputs)
    assert context(response) == expected
    assert response.outputs["STREAMING"].tolist() == [[streaming]]


@pytest.mark.parametrize(("min_tokens", "lists"), [(0, True), (1, False)])
def test_the_engine_ends_at_stop_words_only_where_it_may_at_once(
    load: Callable[..., TritonPythonModel], min_tokens: int, lists: bool
) -> None:
    response = answer(load(), "q", STOP_WORDS_DICT=[[b"q"]], MIN_TOKENS=[[min_tokens]])
    assert bool((response.outputs["STOP_WORDS_IDS"][:, 1] > 0).any()) == lists


@pytest.mark.parametrize(
    ("text", "parameters", "goes_on"),
    [
        ("the cat", {"chat_template": "off"}, True),
        ("<s>", {"chat_template": "off"}, False),
        ("the cat", {"chat_template": "auto"}, False),
    ],
)
def test_an_answer_goes_on_with_a_raw_prompt_alone(
    load: Callable[..., TritonPythonModel], text: str, parameters: dict[str, str], goes_on: bool
) -> None:
    """Postprocessing then keeps the space of the first word, as transformers would."""
    model = load("the {{ messages[0].content }}", sentencepiece(), **parameters)
    assert context(answer(model, text)).goes_on is goes_on


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


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"EMBEDDING_BIAS_IDS": [[1]]}, "must come together"),
        (
            {
                "EMBEDDING_BIAS_IDS": [[1]],
                "EMBEDDING_BIAS_WEIGHTS": [[1.0]],
                "EMBEDDING_BIAS_WORDS": [[b"q"]],
            },
            "without embedding_bias_words",
        ),
        (
            {"EMBEDDING_BIAS_IDS": [[-1]], "EMBEDDING_BIAS_WEIGHTS": [[1.0]]},
            "embedding_bias_ids must be between 0 and",
        ),
    ],
)
def test_biased_ids_are_checked(
    load: Callable[..., TritonPythonModel], inputs: dict[str, Any], message: str
) -> None:
    assert message in refusal(load(), "a", **inputs)


def test_a_request_can_have_its_text_taken_as_it_is(
    load: Callable[..., TritonPythonModel],
) -> None:
    model = load("{{ messages[0].content }}{{ messages[0].content }}")
    request = make_request(PREPROCESSING_MODEL, QUERY=[[b"q"]], REQUEST_OUTPUT_LEN=[[9]])
    lengths = []
    for parameters in ("{}", '{"chat_template": "off"}', '{"chat_template": "auto"}'):
        request.parameters_json = parameters
        (response,) = model.execute([request])
        lengths.append(response.outputs["REQUEST_INPUT_LEN"].item())
    assert lengths == [2, 1, 2]
    request.parameters_json = '{"chat_template": 3}'
    (response,) = model.execute([request])
    assert response.error is not None
    assert "chat_template is 3; it must be 'auto', 'on' or 'off'" in response.error.message


def test_what_nobody_foresaw_fails_alone(
    load: Callable[..., TritonPythonModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load()
    encode = model._tokenizer.encode

    def broken(text: str, *args: Any, **kwargs: Any) -> Any:
        if text == "cat":
            raise RuntimeError("the tokenizer broke")
        return encode(text, *args, **kwargs)

    monkeypatch.setattr(model._tokenizer, "encode", broken)
    requests = [
        make_request(PREPROCESSING_MODEL, QUERY=[[text]], REQUEST_OUTPUT_LEN=[[9]])
        for text in ("dog", "cat", "dog")
    ]
    responses = model.execute(requests)
    assert [response.error is None for response in responses] == [True, False, True]
    assert read(responses[1].error.message) == ErrorText(Status.INTERNAL, "the tokenizer broke")
    assert responses[1].error.code == TritonError.INTERNAL


@pytest.mark.parametrize("missing", ["QUERY", "REQUEST_OUTPUT_LEN"])
def test_an_input_that_is_missing_is_named(
    load: Callable[..., TritonPythonModel], missing: str
) -> None:
    """Who asks this model itself may leave out what the ensemble insists on."""
    inputs: dict[str, Any] = {"QUERY": [["a"]], "REQUEST_OUTPUT_LEN": [[9]]}
    del inputs[missing]
    (response,) = load().execute([make_request(PREPROCESSING_MODEL, **inputs)])
    assert read(response.error.message).status is Status.INVALID_ARGUMENT
    assert missing in response.error.message


def test_an_ensemble_that_is_not_decoupled_neither_probes_nor_streams(
    load: Callable[..., TritonPythonModel],
) -> None:
    model = load(decoupled="false", exclude_input_in_output="true")
    outputs = answer(model, "q", policy="strict", STOP_WORDS_DICT=[[b"x"]]).outputs
    assert not outputs["LIVENESS_PROBES"].any()
    assert not outputs["STREAMING"].any()
    expected = StreamContext(("x",), before="q")
    assert StreamContext.from_bytes(outputs["STREAM_CONTEXT"].item()) == expected
    assert refusal(model, "q", STREAM=[[True]]).startswith("stream is true; streaming is only")
    assert refusal(model, "q", "r").startswith("the request has 2 prompts; more than one")


def test_tensorrt_llms_own_programs_find_what_a_decoder_begins_with(
    load: Callable[..., TritonPythonModel],
) -> None:
    outputs = answer(load(), "q", "r").outputs
    assert outputs["DECODER_INPUT_ID"].tolist() == [[PAD], [PAD]]
    assert outputs["REQUEST_DECODER_INPUT_LEN"].tolist() == [[1], [1]]


def test_an_input_that_is_not_served_may_be_empty(load: Callable[..., TritonPythonModel]) -> None:
    model = load()
    assert answer(model, "q", DECODER_QUERY=[[b""]]).error is None
    assert refusal(model, "q", DECODER_QUERY=[[b"x"]]) == "decoder_text_input is not supported"
