"""Detokenization: a stream, however it is cut, is what the tokenizers library decodes."""

from __future__ import annotations

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from contract.errors import EngineError
from python_backend.text.detokenizer import Detokenizer, Vocabulary
from tests.examples import examples
from tests.python_backend.text.samples import byte_level, sentencepiece

TOKENIZERS = {
    "byte-level": byte_level(),
    "sentencepiece": sentencepiece(),
    "sentencepiece-unstripped": sentencepiece(strip=False),
    "sentencepiece-without-bytes": sentencepiece(byte_fallback=False),
}
VOCABULARIES = {name: Vocabulary(tokenizer) for name, tokenizer in TOKENIZERS.items()}

LENGTHS = st.lists(st.integers(0, 5), min_size=1, max_size=10)


def ids_of(tokenizer: Tokenizer) -> st.SearchStrategy[list[int]]:
    """Any tokens, and ids that the vocabulary lacks; often added ones and parts of characters."""
    vocabulary = tokenizer.get_vocab()
    parts = {f"<0x{byte:02X}>" for byte in " aé🐱".encode()} | {*"ĠaÃ©ðŁĲ±", "", "▁▁", "the"}
    telling = sorted(tokenizer.get_added_tokens_decoder())
    telling += [vocabulary[part] for part in sorted(parts & vocabulary.keys())]
    return st.lists(st.integers(0, len(vocabulary) + 3) | st.sampled_from(telling), max_size=24)


IDS = {name: ids_of(tokenizer) for name, tokenizer in TOKENIZERS.items()}


def id_of(name: str, token: str) -> int:
    return TOKENIZERS[name].get_vocab()[token]


def stream(name: str, ids: list[int], lengths: list[int], skip: bool) -> list[str]:
    """The pieces of a stream whose tokens come in pieces of some lengths, over and over."""
    detokenizer = Detokenizer(VOCABULARIES[name], skip_special_tokens=skip)
    pieces = []
    while ids:
        for length in [*lengths, 1]:
            pieces.append(detokenizer.add(ids[:length]))
            ids = ids[length:]
    return [*pieces, detokenizer.add([], final=True)]


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("name", TOKENIZERS)
@given(data=st.data(), lengths=LENGTHS)
def test_a_stream_is_the_whole_text(name: str, skip: bool, data: st.DataObject, lengths) -> None:
    ids = data.draw(IDS[name])
    whole = TOKENIZERS[name].decode(ids, skip_special_tokens=skip)
    assert "".join(stream(name, ids, lengths, skip)) == whole


@settings(max_examples=examples(100 * len(TOKENIZERS)))
@given(
    answer=st.sampled_from([*TOKENIZERS]).flatmap(lambda name: st.tuples(st.just(name), IDS[name])),
    prompt=st.text(" thecaté猫.", max_size=8),
    special=st.booleans(),
)
@example(answer=("sentencepiece", [id_of("sentencepiece", "<0x80>")]), prompt=" ", special=False)
def test_an_answer_goes_on_with_its_prompt(
    answer: tuple[str, list[int]], prompt: str, special: bool
) -> None:
    name, after = answer
    tokenizer, vocabulary = TOKENIZERS[name], VOCABULARIES[name]
    before = tokenizer.encode(prompt, add_special_tokens=False).ids
    before += [id_of(name, "<|é|>")] * special
    # An answer whose bytes spoil the prompt's last run of bytes changes what is said already. Seen
    # behind other text, for a prompt of one space alone is stripped to nothing, spoilt or not.
    behind = [id_of(name, "a"), *before]
    assume(tokenizer.decode(behind + after).startswith(tokenizer.decode(behind)))
    whole, said = (tokenizer.decode(ids) for ids in (before + after, before))
    goes_on = vocabulary.are_followed(before)
    text = Detokenizer(vocabulary, goes_on=goes_on).add(after, final=True)
    assert said + text == whole


def test_an_answer_s_own_bytes_are_read_without_its_prompt_s() -> None:
    vocabulary = VOCABULARIES["sentencepiece"]
    prompt = [id_of("sentencepiece", each) for each in ("<0xC3>", "<0xA9>")]
    answer = Detokenizer(vocabulary, goes_on=vocabulary.are_followed(prompt))
    assert answer.add([id_of("sentencepiece", "<0x80>")], final=True) == "\ufffd"


def test_a_continued_text_keeps_its_first_words_space() -> None:
    vocabulary = VOCABULARIES["sentencepiece"]
    the, start = (id_of("sentencepiece", each) for each in ("▁the", "<s>"))
    assert not vocabulary.are_followed([])
    assert not vocabulary.are_followed([start])
    assert vocabulary.are_followed([start, the])
    assert not VOCABULARIES["byte-level"].are_followed([100])
    assert not VOCABULARIES["sentencepiece-unstripped"].are_followed([the])
    assert Detokenizer(vocabulary).add([the]) == "the"
    assert Detokenizer(vocabulary, goes_on=True).add([the]) == " the"


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=st.text(max_size=30))
@example("The cat, déjà vu, 東京の猫 🐱🏳️‍🌈")
def test_text_survives_the_way_there_and_back(name: str, text: str) -> None:
    ids = TOKENIZERS[name].encode(text, add_special_tokens=False).ids
    assert "".join(stream(name, ids, [1], skip=False)) == TOKENIZERS[name].decode(
        ids, skip_special_tokens=False
    )


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=st.text("aé猫🐱 🚢", max_size=20))
def test_no_replacement_character_shows_up_while_text_streams(name: str, text: str) -> None:
    ids = TOKENIZERS[name].encode(text, add_special_tokens=False).ids
    assert "\ufffd" not in "".join(stream(name, ids, [1], skip=True))


def test_a_character_leaves_when_its_last_byte_is_there() -> None:
    tokenizer = Tokenizer(models.BPE({"ð": 0, "Ł": 1, "Ĳ": 2, "±": 3, "a": 4}, []))
    tokenizer.decoder = decoders.ByteLevel()
    detokenizer = Detokenizer(Vocabulary(tokenizer))
    assert [detokenizer.add([i]) for i in (4, 0, 1, 2, 3)] == ["a", "", "", "", "🐱"]


def test_a_cut_character_at_the_end_is_a_replacement_character() -> None:
    tokenizer = Tokenizer(models.BPE({"ð": 0, "Ł": 1}, []))
    tokenizer.decoder = decoders.ByteLevel()
    detokenizer = Detokenizer(Vocabulary(tokenizer))
    assert detokenizer.add([0, 1]) == ""
    assert detokenizer.add([], final=True) == "\ufffd"


def test_an_unknown_token_does_not_end_a_run_of_byte_tokens() -> None:
    tokenizer = TOKENIZERS["sentencepiece"]
    vocabulary = tokenizer.get_vocab()
    ids = [vocabulary["<0xC3>"], len(vocabulary), vocabulary["<0xA9>"]]
    assert "".join(stream("sentencepiece", ids, [1], skip=True)) == tokenizer.decode(ids) == "é"


def test_a_token_that_is_no_byte_though_it_looks_like_one_is_text() -> None:
    tokenizer = Tokenizer(models.BPE({"<0xZZ>": 0, "<0xéé>": 1, "<0x٣٣>": 2, "<0x41>": 3}, []))
    tokenizer.decoder = sentencepiece().decoder
    ids = [0, 1, 2, 3]
    detokenizer = Detokenizer(Vocabulary(tokenizer))
    assert detokenizer.add(ids, final=True) == tokenizer.decode(ids) == "<0xZZ><0xéé><0x٣٣>A"


REPLACE, FUSE = decoders.Replace("▁", " "), decoders.Fuse()


@pytest.mark.parametrize(
    ("decoder", "name"),
    [
        (None, "null"),
        (decoders.WordPiece(), "WordPiece"),
        (decoders.Metaspace(), "Metaspace"),
        (decoders.CTC(), "CTC"),
        (decoders.Sequence([decoders.ByteLevel(), decoders.WordPiece()]), "WordPiece"),
        (decoders.Sequence([decoders.Replace("_", " "), FUSE]), '"_"'),
        (decoders.Sequence([REPLACE, FUSE, decoders.Strip(" ", 0, 1)]), '"stop": 1'),
        (decoders.Sequence([REPLACE, decoders.Strip(" ", 1, 0)]), "Strip"),
    ],
)
def test_another_decoder_is_refused_by_name(decoder: decoders.Decoder | None, name: str) -> None:
    tokenizer = Tokenizer(models.BPE({"a": 0}, []))
    if decoder is not None:
        tokenizer.decoder = decoder
    with pytest.raises(EngineError, match=f"decoder .*{name}.* is not supported"):
        Vocabulary(tokenizer)
