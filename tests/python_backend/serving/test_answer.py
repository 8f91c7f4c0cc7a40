"""One answer: where it ends, what of it leaves there, and how many tokens it has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from contract.codes import FinishReason
from python_backend.safety.policy import Policy, load_policies
from python_backend.serving.answer import Answer, Piece, StreamContext
from python_backend.text.detokenizer import Vocabulary
from tests.examples import examples
from tests.python_backend.text.samples import byte_level, sentencepiece

TOKENIZER = byte_level()
VOCABULARY = Vocabulary(TOKENIZER)
CARD = "4000 0093 9348 4764"
KEY = "ghp_" + "a1" * 18
TEXT = f"🐱 Mail: ana.silva@acme.example, phone: +44 20 7946 0123, card: {CARD}; token {KEY}!"
IDS = TOKENIZER.encode(TEXT, add_special_tokens=False).ids
POLICIES = """
default: redact
policies:
  redact:
    rules:
      - {name: personal, find: personal_data, output: redact}
      - {name: secrets, find: secrets, output: redact}
  replace:
    rules:
      - {name: personal, find: personal_data, output: replace, replacement: '<{kind} removed>'}
      - {name: secrets, find: secrets, output: replace, replacement: '<{kind} removed>'}
  block:
    rules:
      - {name: payment, find: personal_data, kinds: [card], output: block}
      - {name: personal, find: personal_data, kinds: [email, phone], output: redact}
      - {name: secrets, find: secrets, output: block}
  flag:
    rules:
      - {name: personal, find: personal_data, output: flag}
  none: {}
"""
TAKE_OUT = ["redact", "replace", "block"]
EACH_WAY = ["redact", "block"]
"""What is replaced is redacted with another text: answers that are drawn have it."""


@cache
def policies(folder: Path) -> dict[str, Policy]:
    file = folder / "policies.yaml"
    file.write_text(POLICIES)
    return dict(load_policies(file).by_name)


@pytest.fixture(scope="module")
def by_name(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Policy]:
    return policies(tmp_path_factory.getbasetemp())


def answer(
    policy: Policy,
    pieces: Sequence[Sequence[int]],
    reason: FinishReason,
    context: StreamContext = StreamContext(),  # noqa: B008 (frozen)
    log_probs: bool = False,
) -> Piece:
    """All pieces of an answer in one."""
    made = Answer(VOCABULARY, policy, context, skip_special_tokens=True)
    whole = Piece()
    for i, tokens in enumerate(pieces):
        if made.ended:
            break
        last = i == len(pieces) - 1
        piece = made.add(
            tokens, reason if last else "", [-0.5] * len(tokens) if log_probs else None
        )
        assert not (whole.finish_reason or piece.tokens) or log_probs
        whole.text += piece.text
        whole.finish_reason = piece.finish_reason
        whole.verdicts += piece.verdicts
        whole.tokens += piece.tokens
        whole.num_tokens += piece.num_tokens
    assert made.ended
    return whole


def ended_anywhere(policy: Policy, ids: Sequence[int], reason: FinishReason) -> Iterator[Piece]:
    """What becomes of an answer, token by token, that ends after the first, the second, ...

    Each end is that of a copy, so that no token is read twice.
    """
    context = StreamContext()
    shared = {id(each): each for each in (VOCABULARY, policy, policy.output, context)}
    made = Answer(VOCABULARY, policy, context, skip_special_tokens=True)
    so_far = Piece()
    for token in ids:
        if not made.ended:
            so_far = joined(so_far, made.add([token]))
        copy = deepcopy(made, dict(shared))
        yield so_far if copy.ended else joined(so_far, copy.add([], reason))


def joined(one: Piece, other: Piece) -> Piece:
    """Two pieces in one."""
    return Piece(
        text=one.text + other.text,
        finish_reason=other.finish_reason,
        verdicts=one.verdicts + other.verdicts,
        tokens=one.tokens + other.tokens,
        num_tokens=one.num_tokens + other.num_tokens,
    )


def one_by_one(ids: Sequence[int]) -> list[list[int]]:
    return [*([each] for each in ids), []]


def told(text: str) -> str:
    """What a text has of the card, the address, the number and the key."""
    return max(
        (
            secret[:end]
            for secret in (CARD, "ana.silva@acme.example", "+44 20 7946 0123", KEY)
            for end in range(1, len(secret) + 1)
            if text.endswith(secret[:end]) or secret[: max(end, 9)] in text
        ),
        key=len,
        default="",
    )


def assert_tells_nothing(text: str) -> None:
    """Four digits, the first part of a name and the first characters of a key at most."""
    assert len(told(text)) <= 8
    assert sum(map(str.isdigit, text)) <= 4
    assert "@" not in text
    assert "ana.si" not in text


@pytest.mark.parametrize("reason", ["length", "cancelled", "error"])
@pytest.mark.parametrize("name", EACH_WAY)
def test_wherever_the_engine_ends_it_no_beginning_of_a_match_leaves(
    by_name: dict[str, Policy], name: str, reason: FinishReason
) -> None:
    for end, piecewise in enumerate(ended_anywhere(by_name[name], IDS, reason), 1):
        whole = answer(by_name[name], [IDS[:end]], reason)
        assert_tells_nothing(whole.text)
        assert whole == piecewise
        assert whole.finish_reason in (reason, "content_filter" if name == "block" else reason)


def test_the_end_of_the_model_s_own_is_no_cut(by_name: dict[str, Policy]) -> None:
    ids = TOKENIZER.encode("no 4000 0093 9348 47").ids
    assert answer(by_name["redact"], [ids], "stop").text == "no 4000 0093 9348 47"
    chosen = StreamContext(own_end=False)
    assert answer(by_name["redact"], [ids], "stop", chosen).text == "no [CARD]"
    assert answer(by_name["block"], [ids], "length").finish_reason == "content_filter"


@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize("name", EACH_WAY)
def test_no_stop_text_lets_a_beginning_of_a_match_leave(
    by_name: dict[str, Policy], name: str, include: bool
) -> None:
    """Also where the stop text is part of what the rule takes out."""
    for place in range(TEXT.index("ana"), TEXT.index(CARD) + len(CARD)):
        for length in (1, 3):
            stop = TEXT[place : place + length]
            context = StreamContext(stops=(stop,), include_stop=include)
            whole = answer(by_name[name], [IDS], "stop", context)
            assert_tells_nothing(whole.text)
            assert whole == answer(by_name[name], one_by_one(IDS), "stop", context)


def test_the_text_behind_the_cut_decides(by_name: dict[str, Policy]) -> None:
    """The stop text is not part of the answer, and shows that what is before it is a number."""
    context = StreamContext(stops=("0093 9348 4764",), include_stop=False)
    whole = answer(by_name["redact"], [TOKENIZER.encode(f"no {CARD}").ids], "stop", context)
    assert whole.text == "no [CARD]"
    assert [(each["start"], each["end"]) for each in whole.verdicts] == [(3, 8)]


def test_a_cut_character_hides_nothing(by_name: dict[str, Policy]) -> None:
    """Tokens are bytes, so that an answer may end within a digit."""
    text = "no ４０００ ００９３ ９"
    ids = TOKENIZER.encode(text, add_special_tokens=False).ids
    for end in range(len(ids) - 6, len(ids) + 1):
        assert answer(by_name["redact"], [ids[:end]], "length").text == "no [CARD]"


@settings(max_examples=examples(60), deadline=None)
@example("redact", "", False, 71, [], "stop")
@given(
    st.sampled_from(["redact", "replace", "block", "flag", "none"]),
    st.sampled_from(["", "4764", "0093 9", "@ac", ", ", "!", "a1", "🐱", "phone"]),
    st.booleans(),
    st.integers(1, len(IDS)),
    st.lists(st.integers(1, len(IDS)), max_size=12),
    st.sampled_from(["stop", "length", "cancelled"]),
)
def test_how_tokens_come_changes_neither_text_nor_count(
    by_name: dict[str, Policy],
    name: str,
    stop: str,
    include: bool,
    end: int,
    cuts: list[int],
    reason: FinishReason,
) -> None:
    context = StreamContext(stops=(stop,) if stop else (), include_stop=include)
    places = sorted({0, end, *(cut for cut in cuts if cut < end)})
    pieces = [IDS[a:b] for a, b in pairwise(places)]
    whole = answer(by_name[name], [IDS[:end]], reason, context, log_probs=True)
    for others in (pieces, one_by_one(IDS[:end])):
        assert answer(by_name[name], others, reason, context, log_probs=True) == whole
        plain = answer(by_name[name], others, reason, context)
        whole_but_tokens = Piece(**{**whole.__dict__, "tokens": []})
        assert plain == whole_but_tokens
    # Tokens are of text that left as it was, and of no other.
    taken = any(each["action"] != "flag" for each in whole.verdicts)
    spelt = "".join(token.text for token in whole.tokens if not token.text.startswith("bytes:"))
    if not taken and not stop:
        assert spelt.strip("\ufffd") in whole.text
    if reason != "stop" and name in TAKE_OUT:
        assert len(told(spelt)) <= 8


@pytest.mark.parametrize("include", [True, False])
def test_tokens_count_up_to_the_one_that_completes_the_stop_text(
    by_name: dict[str, Policy], include: bool
) -> None:
    ids = TOKENIZER.encode("The cat sat on the dog").ids
    up_to = len(TOKENIZER.encode("The cat sat").ids)
    context = StreamContext(stops=("sat",), include_stop=include)
    for name in ("none", "redact", "block"):
        for pieces in ([ids], one_by_one(ids), [ids[:3], ids[3:]], [ids[:-1], ids[-1:]]):
            for reason in ("stop", "length"):
                whole = answer(by_name[name], pieces, reason, context)
                assert (whole.num_tokens, whole.finish_reason) == (up_to, "stop")


def test_tokens_count_up_to_the_one_that_shows_what_is_blocked(by_name: dict[str, Policy]) -> None:
    ids = TOKENIZER.encode(f"card {CARD}, and so on, and so on").ids
    counts = {
        answer(by_name["block"], pieces, "stop").num_tokens
        for pieces in ([ids], one_by_one(ids), [ids[:9], ids[9:]])
    }
    assert len(counts) == 1
    assert counts.pop() < len(ids)


SENTENCEPIECE = sentencepiece()
ID_OF = SENTENCEPIECE.get_vocab()
NEWLINE, SPACE, START = ID_OF["<0x0A>"], ID_OF["▁"], ID_OF["<s>"]
AFTER = [ID_OF["a"], ID_OF["<0x0A>"], ID_OF["▁the"]]


@pytest.mark.parametrize("stops", [(), ("\n",), ("\na",)])
@pytest.mark.parametrize("engine_sends_it", [True, False])
@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ([START], ""),
        ([SPACE], ""),
        ([SPACE, NEWLINE], "\n"),
        ([ID_OF["the"], NEWLINE], "the\n"),
        ([ID_OF["the"], ID_OF["<0xC3>"], ID_OF["<0xA9>"]], "theé"),
    ],
)
def test_an_echoed_prompt_comes_once_and_no_stop_text_is_looked_for_in_it(
    by_name: dict[str, Policy],
    prompt: list[int],
    text: str,
    alone: bool,
    engine_sends_it: bool,
    stops: tuple[str, ...],
) -> None:
    """Also where its text is certain only with what follows, or is none."""
    echo: dict[str, Any] = (
        {"echo_tokens": len(prompt)} if engine_sends_it else {"prompt": (*prompt,)}
    )
    context = StreamContext(stops=stops, include_stop=False, **echo)
    said = Answer(Vocabulary(SENTENCEPIECE), by_name["none"], context, skip_special_tokens=True)
    first = prompt if engine_sends_it else []
    parts = [[*first, AFTER[0]], *([each] for each in AFTER[1:])] if alone else [[*first, *AFTER]]
    pieces: list[Piece] = []
    for part in parts:
        own = part[len(first) :] if part is parts[0] else part
        if not said.ended:
            pieces.append(said.add(part, log_probs=[-1.0] * len(own)))
    if not said.ended:
        pieces.append(said.add([], "length"))
    answered = "a" if "\n" in stops else "a\n the"
    assert "".join(piece.text for piece in pieces) == text + answered
    assert [token.id for piece in pieces for token in piece.tokens][:1] == AFTER[:1]
