"""Answers that are kept: found by their tenant alone, bounded, and forgotten in time."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.configuration import KeepingSettings
from gateway.conversations import Conversations, Follows, Lookup, Said
from gateway.gateway_errors import InvalidRequest, NotKept
from gateway.generation import Chat

HELLO = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Yes"}
SYSTEM = {"role": "system", "content": "Be"}


def keeping(**settings: Any) -> Conversations:
    return Conversations(KeepingSettings(**settings))


def test_a_conversation_goes_on_without_the_instructions_of_before():
    kept = keeping()
    _, keeper = kept.begin("acme", Follows("", Said.of([SYSTEM]), Said.of([HELLO])), keeps=True)
    keeper.keep("r1", ANSWER, b"{}")
    other = {"role": "system", "content": "Don't"}
    more = {"role": "user", "content": "And?"}
    chat, keeper = kept.begin("acme", Follows("r1", Said.of([other]), Said.of([more])), keeps=True)
    assert chat == Chat.of([other, HELLO, ANSWER, more])
    keeper.keep("r2", ANSWER, b"{}")
    chat, _ = kept.begin("acme", Follows("r2", Said(), Said.of([more])), keeps=True)
    assert chat == Chat.of([HELLO, ANSWER, more, ANSWER, more])
    chat, _ = kept.begin("acme", Follows("r1", Said(), Said()), keeps=True)
    assert chat == Chat.of([HELLO, ANSWER])


@given(st.lists(st.lists(st.sampled_from([HELLO, ANSWER, SYSTEM]), max_size=3), max_size=4))
def test_it_is_the_same_chat_whether_said_at_once_or_bit_by_bit(parts: list[list[Any]]):
    kept, before = keeping(), ""
    for number, part in enumerate(parts):
        _, keeper = kept.begin("acme", Follows(before, Said(), Said.of(part)), keeps=True)
        before = f"r{number}"
        keeper.keep(before, ANSWER, b"{}")
    chat, _ = kept.begin("acme", Follows(before, Said.of([SYSTEM]), Said.of([HELLO])), keeps=True)
    said = [message for part in parts for message in (*part, ANSWER)]
    assert chat == Chat.of([SYSTEM, *said, HELLO])


def test_nobody_finds_another_s():
    kept = keeping()
    kept.keep("acme", "r1", Said(), b"answer")
    assert kept.find("acme", "r1") == b"answer"
    with pytest.raises(NotKept):
        kept.find("other", "r1")
    with pytest.raises(NotKept):
        kept.forget("other", "r1")
    with pytest.raises(InvalidRequest) as refused:
        kept.begin("other", Follows("r1", Said(), Said()), keeps=True)
    assert refused.value.code == "previous_response_not_found"
    assert refused.value.param == "previous_response_id"


def test_what_is_forgotten_is_gone():
    kept = keeping()
    kept.keep("acme", "r1", Said(), b"answer")
    kept.forget("acme", "r1")
    assert kept.held_bytes == 0
    with pytest.raises(NotKept):
        kept.forget("acme", "r1")


def test_what_is_not_to_be_kept_is_not():
    kept = keeping()
    _, keeper = kept.begin("acme", Follows("", Said(), Said.of([HELLO])), keeps=False)
    keeper.keep("r1", ANSWER, b"{}")
    assert kept.held_bytes == 0


def test_with_no_room_nothing_is_kept():
    kept = keeping(max_bytes=0)
    _, keeper = kept.begin("acme", Follows("", Said(), Said.of([HELLO])), keeps=True)
    assert not keeper.keeps


def test_it_is_kept_for_a_while(monkeypatch):
    now_s = 100.0
    monkeypatch.setattr("gateway.conversations.time.monotonic", lambda: now_s)
    kept = keeping(keep_s=10)
    kept.keep("acme", "r1", Said(), b"answer")
    now_s = 109.0
    kept.keep("acme", "r2", Said(), b"answer")
    now_s = 111.0
    with pytest.raises(NotKept):
        kept.find("acme", "r1")
    assert kept.find("acme", "r2") == b"answer"


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9), st.integers(0, 400))))
def test_a_tenant_has_half_of_the_room_and_the_newest_stay(steps: list[tuple[str, int, int]]):
    kept = keeping(max_bytes=600)
    for tenant, number, size in steps:
        kept.keep(tenant, str(number), Said(), b"x" * size)
        assert kept.held_bytes <= 600
        if 0 < size <= 300:
            assert kept.find(tenant, str(number)) == b"x" * size
        sizes = {key: each.size for key, each in kept._kept.items()}
        assert kept.held_bytes == sum(sizes.values())
        for each in "ab":
            assert sum(size for key, size in sizes.items() if key[0] == each) <= 300


def test_items_are_found_by_their_tenant_for_as_long_as_their_answer_is_kept():
    kept = keeping()
    _, keeper = kept.begin("acme", Follows("", Said(), Said.of([HELLO])), keeps=True)
    keeper.keep("r1", ANSWER, b"{}", {"m1": {"content": "Yes"}})

    def more(lookup: Lookup) -> Said:
        return Said.of([HELLO, {"role": "assistant", **lookup("m1")}, HELLO])

    chat, _ = kept.begin("acme", Follows("", Said(), more), keeps=True)
    assert chat == Chat.of([HELLO, ANSWER, HELLO])
    with pytest.raises(InvalidRequest, match="the item 'm1' is not kept here"):
        kept.begin("other", Follows("", Said(), more), keeps=True)
    kept.forget("acme", "r1")
    with pytest.raises(InvalidRequest, match="the item 'm1' is not kept here"):
        kept.begin("acme", Follows("", Said(), more), keeps=True)
    assert not kept._items
