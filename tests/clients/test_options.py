"""Options: what they send, and what they refuse before anything is sent."""

from __future__ import annotations

import typing
from dataclasses import fields

import pytest

from clients import GenerationOptions, InvalidRequestError
from clients.options import OptionKeywords
from clients.request import Request
from clients.results import Outputs, PerfMetrics, Piece, ToolCall
from clients.wire import to_array, to_json, wire_type
from contract.models import ENSEMBLE_MODEL, UNSUPPORTED_INPUTS


def test_only_what_is_given_is_sent() -> None:
    assert GenerationOptions(max_tokens=3).inputs() == {"max_tokens": (3,)}
    assert GenerationOptions(max_tokens=3, seed=0, stop_words=["."]).inputs() == {
        "max_tokens": (3,),
        "seed": (0,),
        "stop_words": (".",),
    }


def test_temperature_alone_samples_from_all_tokens() -> None:
    assert GenerationOptions(temperature=0.5).inputs()["top_p"] == (1.0,)
    assert "top_p" not in GenerationOptions(temperature=0.5, top_k=3).inputs()
    assert "top_p" not in GenerationOptions(temperature=0.5, min_p=0.1).inputs()
    assert GenerationOptions(temperature=0.5, top_p=0.9).inputs()["top_p"] == (0.9,)
    assert "top_p" not in GenerationOptions(temperature=0).inputs()


def test_embedding_bias_becomes_words_and_weights() -> None:
    inputs = GenerationOptions(embedding_bias={"oar": 2.0, "sail": -1.0}).inputs()
    assert inputs["embedding_bias_words"] == ("oar", "sail")
    assert inputs["embedding_bias_weights"] == (2.0, -1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 1.5}, "max_tokens is 1.5; it must be a whole number"),
        ({"max_tokens": 2**31}, "from -2147483648 to 2147483647"),
        ({"max_tokens": True}, "max_tokens is True; it must be a number"),
        ({"seed": -1}, "seed is -1; it must be a whole number from 0"),
        ({"temperature": float("nan")}, "temperature is nan; it must be a finite number"),
        ({"temperature": "hot"}, "temperature is 'hot'; it must be a number"),
        ({"stop_words": "END"}, "stop_words is one text; it must be a list"),
        ({"stop_words": [b"END"]}, "it must be Unicode text"),
        ({"bad_words": ["\ud800"]}, "it must be Unicode text"),
        ({"return_log_probs": 1}, "it must be True or False"),
        ({"embedding_bias": {"oar": "much"}}, "embedding_bias_weights is 'much'"),
    ],
)
def test_values_that_the_wire_cannot_carry(options: dict[str, typing.Any], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message) as caught:
        GenerationOptions(**options)
    assert caught.value.input_name in ENSEMBLE_MODEL.input_names()


def test_prompt_must_be_text() -> None:
    with pytest.raises(InvalidRequestError, match="text_input"):
        Request("ensemble", b"bytes", GenerationOptions(), False, "", None)  # type: ignore[arg-type]


def test_options_do_not_change_with_what_they_were_made_from() -> None:
    words = ["."]
    options = GenerationOptions(stop_words=words)
    words.append("!")
    assert options.stop_words == (".",)


ALL = GenerationOptions(
    max_tokens=1,
    fit_max_tokens=True,
    temperature=0.5,
    top_k=2,
    top_p=0.5,
    min_p=0.1,
    seed=2**64 - 1,
    stop_words=["stop", "halte là"],
    bad_words=["bad"],
    min_tokens=1,
    repetition_penalty=1.5,
    presence_penalty=0.5,
    frequency_penalty=0.5,
    prompt_ignore_length=3,
    embedding_bias={"oar": 1},
    end_id=5,
    num_return_sequences=2,
    exclude_input_in_output=True,
    return_log_probs=True,
    num_top_log_probs=2,
    return_num_input_tokens=True,
    return_num_output_tokens=False,
    return_computed_tokens=True,
    num_prompt_log_probs=5,
    return_prompt_tokens=True,
    return_perf_metrics=True,
    prompt_token_ids=[1, 2],
    messages=[{"role": "user", "content": "Où ?"}],
    tools=[{"type": "function", "function": {"name": "now"}}],
    chat_template_kwargs={"enable_thinking": False},
    include_stop_str_in_output=False,
    guided_decoding_guide_type="regex",
    guided_decoding_guide="yes|no",
    tool_choice="auto",
    parallel_tool_calls=False,
    reasoning_effort="low",
    thinking_token_budget=100,
    parse_answer=True,
    priority=1,
)


def test_a_chat_travels_as_json() -> None:
    assert ALL.inputs()["messages"] == ('[{"role": "user", "content": "Où ?"}]',)


def test_tensors_are_the_contract_s() -> None:
    request = Request("ensemble", "héllo", ALL, True, "", None)
    expected = {tensor.name: tensor for tensor in ENSEMBLE_MODEL.inputs}
    for name, values in request.inputs.items():
        tensor = expected[name]
        array = to_array(name, values)
        assert array.shape == (1, len(values))
        assert tensor.dims == (-1,) or array.shape[1:] == tensor.dims
        assert wire_type(name) == tensor.data_type.replace("STRING", "BYTES")
    assert to_array("text_input", ("héllo",)).tolist() == [["héllo".encode()]]
    assert to_array("seed", request.inputs["seed"]).tolist() == [[2**64 - 1]]


def test_json_has_values_alone_where_the_contract_has_one() -> None:
    assert to_json("max_tokens", (3,)) == 3
    assert to_json("stop_words", (".",)) == ["."]


def test_every_supported_input_can_be_given() -> None:
    sent = set(Request("ensemble", "?", ALL, True, "", None).inputs)
    sent |= set(GenerationOptions(logit_bias={5: 1.0}).inputs())  # in place of embedding_bias
    left_out = {
        *(tensor.name for tensor in UNSUPPORTED_INPUTS),
        "decoder_text_input",  # encoder-decoder models
        "beam_width",  # beam search, with
        "length_penalty",
        "pad_id",  # the tokenizer's
        "prompt_table_extra_id",  # prompt tuning
    }
    assert sent == set(ENSEMBLE_MODEL.input_names()) - left_out


def test_keywords_are_the_options() -> None:
    keywords = typing.get_type_hints(OptionKeywords)
    assert keywords == typing.get_type_hints(GenerationOptions)
    assert list(keywords) == [field.name for field in fields(GenerationOptions)]


def test_results_are_read_from_outputs_of_the_contract() -> None:
    outputs = ENSEMBLE_MODEL.output_names()
    assert {field.name for field in fields(PerfMetrics)} <= set(outputs)
    for name in (
        *("text_output", "finish_reason", "sequence_index", "num_input_tokens"),
        *("num_output_tokens", "cum_log_probs", "output_log_probs"),
        *("top_log_prob_ids", "top_log_probs"),
    ):
        assert name in outputs


def test_thinking_and_calls_are_read_from_outputs_of_their_own() -> None:
    piece = Piece.from_outputs(
        {
            "text_output": ["I add."],
            "finish_reason": ["tool_calls"],
            "reasoning_output": ["Hm."],
            "tool_calls": [
                '[{"index": 0, "id": "a", "name": "add"}, {"index": 1, "arguments": "{"}]'
            ],
            "num_reasoning_tokens": [2],
        }
    )
    assert (piece.text, piece.reasoning, piece.num_reasoning_tokens) == ("I add.", "Hm.", 2)
    assert piece.tool_calls == (ToolCall(0, "a", "add"), ToolCall(1, arguments="{"))
    assert Piece.from_outputs({"text_output": [""]}).reasoning is None


def test_the_likeliest_tokens_are_told_token_by_token() -> None:
    piece = Piece.from_outputs(
        {
            "text_output": ["ab"],
            "output_log_probs": [-0.5, -1.5],
            "top_log_prob_ids": [7, 8, 9, 7],
            "top_log_probs": [-0.5, -1.0, -1.25, -1.5],
        }
    )
    assert piece.top_log_probs == (((7, -0.5), (8, -1.0)), ((9, -1.25), (7, -1.5)))
    empty: Outputs = {"output_log_probs": [], "top_log_prob_ids": [], "top_log_probs": []}
    assert Piece.from_outputs({"text_output": [""], **empty}).top_log_probs == ()
