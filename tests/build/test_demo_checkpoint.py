"""The committed checkpoint: its files agree with the code and with each other."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import jinja2
import pytest
from tokenizers import Tokenizer

from build.demo import data
from build.demo.data import Message
from build.demo.demo_tokenizer import (
    CHAT_TEMPLATE,
    SPECIAL_TOKENS,
    VOCABULARY_SIZE,
    render,
    tokenizer_config,
    train_tokenizer,
)
from python_backend.text.chat_template import ChatTemplate

CHECKPOINT = Path(data.__file__).parent / "checkpoint"

SHORT = (Message("user", "Spell ship."),)
LONG = (
    Message("system", "Answer briefly."),
    Message("user", "Spell ship."),
    Message("assistant", "s-h-i-p"),
    Message("user", "17 + 25"),
)


def load(name: str) -> Any:
    return json.loads((CHECKPOINT / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json"))


def render_jinja(messages: tuple[Message, ...], *, add_generation_prompt: bool = False) -> str:
    def raise_exception(message: str) -> None:
        raise ValueError(message)

    template = jinja2.Environment().from_string(load("tokenizer_config.json")["chat_template"])
    return template.render(
        messages=[{"role": message.role, "content": message.content} for message in messages],
        add_generation_prompt=add_generation_prompt,
        raise_exception=raise_exception,
    )


def test_template_renders_as_documented() -> None:
    assert render_jinja(SHORT, add_generation_prompt=True) == (
        "<|user|>Spell ship.<|end|><|assistant|>"
    )
    assert render_jinja(LONG) == (
        "<|system|>Answer briefly.<|end|><|user|>Spell ship.<|end|>"
        "<|assistant|>s-h-i-p<|end|><|user|>17 + 25<|end|>"
    )


@pytest.mark.parametrize("add_generation_prompt", [False, True])
@pytest.mark.parametrize("messages", [SHORT, LONG])
def test_template_and_training_agree(
    messages: tuple[Message, ...], add_generation_prompt: bool
) -> None:
    expected = render(messages, add_generation_prompt=add_generation_prompt)
    assert render_jinja(messages, add_generation_prompt=add_generation_prompt) == expected


def test_template_tells_of_functions_and_shows_calls_and_results() -> None:
    function = {"name": "add", "arguments": {"a": 1, "b": 2}}
    template = ChatTemplate(CHAT_TEMPLATE, {})
    shown = template.render(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "1 + 2"},
            {"role": "assistant", "content": None, "tool_calls": [{"function": function}] * 2},
            {"role": "tool", "content": "3"},
        ],
        [
            {"function": {"name": "add", "parameters": {"properties": {"a": {}, "b": {}}}}},
            {"function": {"name": "now"}},
        ],
    )
    call = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>'
    assert str(shown) == (
        "<|system|>Be brief.\nTools:\nadd(a, b)\nnow()<|end|><|user|>1 + 2<|end|>"
        f"<|assistant|>{call}\n{call}<|end|>"
        "<|user|><tool_response>\n3\n</tool_response><|end|><|assistant|>"
    )


def test_template_refuses_an_unknown_role() -> None:
    message = Message("poet", "42")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown role: poet"):
        render_jinja((message,))


def test_tokenizer_configuration_is_the_code_s() -> None:
    assert load("tokenizer_config.json") == tokenizer_config()
    assert load("tokenizer_config.json")["chat_template"] == CHAT_TEMPLATE


def test_special_tokens_have_the_first_ids(tokenizer: Tokenizer) -> None:
    for index, token in enumerate(SPECIAL_TOKENS):
        assert tokenizer.token_to_id(token) == index
    assert tokenizer.get_vocab_size() == VOCABULARY_SIZE == load("config.json")["vocab_size"]


def test_end_of_turn_is_the_end_of_sequence() -> None:
    for name in ("config.json", "generation_config.json"):
        assert load(name)["eos_token_id"] == SPECIAL_TOKENS.index("<|end|>")
        assert load(name)["pad_token_id"] == SPECIAL_TOKENS.index("<|pad|>")


def test_every_text_of_the_world_survives_the_tokenizer(tokenizer: Tokenizer) -> None:
    for example in [*islice(data.training_examples(seed=5), 3_000), *data.held_out(120)]:
        for text in (example.question, example.answer):
            assert tokenizer.decode(tokenizer.encode(text).ids) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\n\n\t x",
        "naïve café",
        "👩‍👩‍👧‍👦 🇨🇭",
        "สวัสดี नमस्ते",
        "\x00\x7f�",
        "x" * 300,
        "a  b   c ",
    ],
)
def test_any_text_survives_the_tokenizer(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_digits_are_tokens_except_in_numbers_after_a_space(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("17+25=42").tokens == list("17+25=42")
    assert tokenizer.encode("Sort 45, 7, 140").tokens[-5:] == ["Ġ45", ",", "Ġ7", ",", "Ġ140"]
    assert tokenizer.encode("+1 202 555 0143").tokens[-4:] == ["Ġ0", "1", "4", "3"]


def test_every_number_to_200_is_one_token_after_a_space(tokenizer: Tokenizer) -> None:
    assert all(len(tokenizer.encode(f" {number}").ids) == 1 for number in range(201))


def test_some_characters_are_cut_over_tokens(tokenizer: Tokenizer) -> None:
    answers = [e.answer for e in data.held_out(120) if e.kind == "unicode"]
    ids = [i for answer in answers for i in tokenizer.encode(answer).ids]
    assert sum("�" in tokenizer.decode([i]) for i in ids) > 50


def test_no_token_is_added_to_a_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("Spell", add_special_tokens=True).tokens == ["Spell"]


def test_training_the_tokenizer_again_gives_the_same_one() -> None:
    texts = [e.question + " " + e.answer for e in islice(data.training_examples(seed=1), 500)]
    assert train_tokenizer(texts).to_str() == train_tokenizer(texts).to_str()


def test_files_are_small_and_complete() -> None:
    names = {path.name for path in CHECKPOINT.iterdir()}
    assert names == {
        "LICENSE",
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert all(path.stat().st_size < 8_000_000 for path in CHECKPOINT.iterdir())


def test_weights_are_the_shapes_that_the_configuration_says() -> None:
    config = load("config.json")
    with (CHECKPOINT / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    header.pop("__metadata__")
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    key_value = config["num_key_value_heads"] * config["head_dim"]
    assert {tensor["dtype"] for tensor in header.values()} == {"F16"}
    assert header["model.embed_tokens.weight"]["shape"] == [config["vocab_size"], hidden]
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        assert header[f"{prefix}.self_attn.q_proj.weight"]["shape"] == [hidden, hidden]
        assert header[f"{prefix}.self_attn.k_proj.weight"]["shape"] == [key_value, hidden]
        assert header[f"{prefix}.self_attn.v_proj.weight"]["shape"] == [key_value, hidden]
        assert header[f"{prefix}.self_attn.o_proj.weight"]["shape"] == [hidden, hidden]
        assert header[f"{prefix}.mlp.gate_proj.weight"]["shape"] == [inner, hidden]
        assert header[f"{prefix}.mlp.down_proj.weight"]["shape"] == [hidden, inner]
    assert len(header) == 2 + 9 * config["num_hidden_layers"]


def test_card_has_front_matter_and_a_score() -> None:
    card = (CHECKPOINT / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlicense: apache-2.0\n")
    assert "\n| **all** | " in card
