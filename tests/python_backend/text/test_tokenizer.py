"""The checkpoint's tokenizer: its files, its special tokens and word lists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from contract.errors import EngineError
from python_backend.engine.engine_config import EngineConfig
from python_backend.text.tokenizer import TextTokenizer
from tests.python_backend.engine.descriptions import decoder, heads
from tests.python_backend.text.samples import byte_level

BYTE_LEVEL = byte_level()
END = BYTE_LEVEL.get_vocab()["<|end|>"]
HELLO = [{"role": "user", "content": "Hello"}]


def write(folder: Path, tokenizer: Tokenizer = BYTE_LEVEL, **config: Any) -> Path:
    """A checkpoint folder as far as text is concerned."""
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer(byte_level(), {"eos_token": "<|end|>"}, None)


def test_special_tokens_are_texts_or_descriptions(tmp_path: Path) -> None:
    write(tmp_path, eos_token={"content": "<|end|>", "lstrip": False}, pad_token="<|é|>")
    tokenizer = TextTokenizer.load(tmp_path)
    assert tokenizer.end_id == END
    assert tokenizer.pad_id == BYTE_LEVEL.token_to_id("<|é|>") != END


@pytest.mark.parametrize(
    ("config", "said", "end"),
    [
        ({}, {"eos_token": "<|end|>"}, "<|end|>"),
        ({"eos_token": "<|é|>"}, {"eos_token": {"content": "<|end|>"}}, "<|end|>"),
        ({"eos_token": "<|é|>"}, {"pad_token": "<|end|>"}, "<|é|>"),
        # transformers doesn't read the old file beside this.
        ({"eos_token": "<|é|>", "added_tokens_decoder": {}}, {"eos_token": "<|end|>"}, "<|é|>"),
    ],
)
def test_special_tokens_of_their_own_file(
    tmp_path: Path, config: dict[str, Any], said: dict[str, Any], end: str
) -> None:
    write(tmp_path, **config)
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(said))
    assert TextTokenizer.load(tmp_path).end_id == BYTE_LEVEL.token_to_id(end)


def test_the_engines_end_tokens_hold_where_the_tokenizers_is_not_one_of_them() -> None:
    assert END is not None
    for end_ids, expected in (((), END), ((3, END), END), ((3, 5), 3)):
        tokenizer = TextTokenizer(byte_level(), {"eos_token": "<|end|>"}, None, end_ids)
        assert tokenizer.end_id == expected


def test_the_end_token_pads_where_no_other_does(tokenizer: TextTokenizer) -> None:
    assert tokenizer.pad_id == tokenizer.end_id == END


def test_a_tokenizer_without_an_end_token_takes_the_engines(tmp_path: Path) -> None:
    write(tmp_path, eos_token=None)
    assert TextTokenizer.load(tmp_path).end_id == -1
    assert TextTokenizer.load(tmp_path).pad_id == 0
    EngineConfig(
        architecture="LlamaForCausalLM",
        precision="fp32",
        context_length=8,
        end_token_ids=(7, 5),
        decoder=decoder(heads(), vocab_size=400),
    ).save(tmp_path)
    assert TextTokenizer.load(tmp_path).end_id == 7


def test_a_tokenizer_alone_is_enough(tmp_path: Path) -> None:
    (write(tmp_path) / "tokenizer_config.json").unlink()
    tokenizer = TextTokenizer.load(tmp_path)
    assert tokenizer.chat_template is None
    assert tokenizer.encode("cat", add_special_tokens=False).dtype == np.int32


def test_the_template_file_goes_before_the_configs(tmp_path: Path) -> None:
    write(tmp_path, chat_template="old {{ eos_token }}", eos_token="<|end|>")
    template = TextTokenizer.load(tmp_path).chat_template
    assert template is not None
    assert template.render(HELLO) == "old <|end|>"
    (tmp_path / "chat_template.jinja").write_text("猫 {{ eos_token }}", encoding="utf-8")
    template = TextTokenizer.load(tmp_path).chat_template
    assert template is not None
    assert template.render(HELLO) == "猫 <|end|>"


def test_of_several_templates_the_default_one_is_taken(tmp_path: Path) -> None:
    templates = [{"name": name, "template": name} for name in ("rag", "default", "tool_use")]
    template = TextTokenizer.load(write(tmp_path, chat_template=templates)).chat_template
    assert template is not None
    assert template.render(HELLO) == "default"
    write(tmp_path, chat_template=templates[:1])
    assert TextTokenizer.load(tmp_path).chat_template is None


def test_a_missing_or_damaged_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"tokenizer\.json is missing"):
        TextTokenizer.load(tmp_path)
    (write(tmp_path) / "tokenizer_config.json").write_text("{")
    with pytest.raises(EngineError, match=r"tokenizer_config\.json can't be read: Expecting"):
        TextTokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": 1}')
    with pytest.raises(EngineError, match=r"tokenizer\.json can't be read"):
        TextTokenizer.load(tmp_path)


def test_padding_and_truncation_of_the_training_are_off(tmp_path: Path) -> None:
    trained = byte_level()
    trained.enable_padding(length=64)
    trained.enable_truncation(2)
    ids = TextTokenizer.load(write(tmp_path, trained)).encode("The cat sat", False)
    assert ids.tolist() == BYTE_LEVEL.encode("The cat sat").ids


def test_special_tokens_are_added_where_asked_for() -> None:
    with_end = byte_level()
    with_end.post_processor = processors.TemplateProcessing(
        single="$A <|end|>", special_tokens=[("<|end|>", END)]
    )
    tokenizer = TextTokenizer(with_end, {}, None)
    assert tokenizer.encode("a", add_special_tokens=True)[-1] == END
    assert END not in tokenizer.encode("a", add_special_tokens=False)


def test_a_tokenizer_is_left_as_it_was() -> None:
    theirs = byte_level()
    before = theirs.to_str()
    ours = TextTokenizer(theirs, {"eos_token": "<|end|>"}, "{{ eos_token }}")
    assert ours.encode("<|end|>", add_special_tokens=False).tolist() == [END]
    assert theirs.to_str() == before
    assert ours.vocab_size == theirs.get_vocab_size()


def test_every_token_id_is_below_the_vocabulary_size() -> None:
    gaps = Tokenizer(models.BPE({"a": 0, "b": 9}, []))
    gaps.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    gaps.decoder = BYTE_LEVEL.decoder
    assert TextTokenizer(gaps, {}, None).vocab_size == 10


def test_a_word_list_is_flat_tokens_and_end_offsets(tokenizer: TextTokenizer) -> None:
    q, z = (BYTE_LEVEL.token_to_id(letter) for letter in "qz")
    assert tokenizer.word_list([["zq", "q"], ["qz"]]).tolist() == [
        [[z, q, q], [2, 3, -1]],
        [[q, z, 0], [2, -1, -1]],
    ]


def test_no_words_take_no_room(tokenizer: TextTokenizer) -> None:
    assert tokenizer.word_list([[], []]).shape == (2, 2, 0)


def test_an_empty_word_fills_up_a_row(tokenizer: TextTokenizer) -> None:
    uneven = tokenizer.word_list([["cat", "dog"], ["", "dog"]])
    assert np.array_equal(uneven, tokenizer.word_list([["cat", "dog"], ["dog"]]))
    assert tokenizer.word_list([[""]]).shape == (1, 2, 0)


# The library takes an added token's own letters for bytes when it decodes: «é!» comes back broken.
words_without_added = st.text(min_size=1, max_size=5).filter(lambda word: "é!" not in word)


@given(rows=st.lists(st.lists(words_without_added, max_size=4), max_size=4))
def test_every_word_can_be_read_back(rows: list[list[str]]) -> None:
    lists = TextTokenizer(BYTE_LEVEL, {}, None).word_list(rows)
    for row, (tokens, offsets) in zip(rows, lists, strict=True):
        ends = offsets[: len(row)]
        words = np.split(tokens, ends)[: len(row)]
        assert [
            BYTE_LEVEL.decode(word.tolist(), skip_special_tokens=False) for word in words
        ] == row
        assert (offsets[len(row) :] == -1).all()


@pytest.mark.parametrize(
    ("normalizer", "factor"),
    [(None, 1), (normalizers.Prepend("▁"), 1), (normalizers.NFC(), 4)],
)
def test_a_context_holds_so_many_bytes(
    normalizer: normalizers.Normalizer | None, factor: int
) -> None:
    letters = Tokenizer(models.BPE({"a": 0, "é": 1, "aaaa": 2}, []))
    letters.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    if normalizer is not None:
        letters.normalizer = normalizer
    assert TextTokenizer(letters, {}, None, context_length=10).max_prompt_bytes == 40 * factor
    assert TextTokenizer(letters, {}, None).max_prompt_bytes == 16_000_000


@given(text=st.text("aé猫 \n", max_size=400), context=st.integers(1, 40))
def test_a_text_that_fits_is_never_too_long(text: str, context: int) -> None:
    tokenizer = TextTokenizer(BYTE_LEVEL, {}, None, context_length=context)
    tokens = tokenizer.encode(text, add_special_tokens=False).size
    if tokens <= context:
        assert not tokenizer.is_too_long(text)
        assert len(text.encode()) <= tokenizer.max_prompt_bytes
    if len(text) >= 8 * context and tokens > 2 * context + 32:
        assert tokenizer.is_too_long(text + " ")
