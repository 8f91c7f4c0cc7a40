"""Answers that are kept: found by their tenant alone, bounded, and forgotten in time."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.configuration import KeepingSettings
from gateway.conversations import Conversations, Follows
from gateway.gateway_errors import InvalidRequest, NotKept

HELLO = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Yes"}
SYSTEM = {"role": "system", "content": "Be"}


def keeping(**settings: Any) -> Conversations:
    return Conversations(KeepingSettings(**settings))


def test_a_conversation_goes_on_without_the_instructions_of_before():
    kept = keeping()
    _, keeper = kept.begin("acme", Follows("", (SYSTEM,), (HELLO,)), keeps=True)
    keeper.keep("r1", ANSWER, b"{}")
    other = {"role": "system", "content": "Don't"}
    more = {"role": "user", "content": "And?"}
    said, keeper = kept.begin("acme", Follows("r1", (other,), (more,)), keeps=True)
    assert said == [other, HELLO, ANSWER, more]
    keeper.keep("r2", ANSWER, b"{}")
    said, _ = kept.begin("acme", Follows("r2", (), (more,)), keeps=True)
    assert said == [HELLO, ANSWER, more, ANSWER, more]
    said, _ = kept.begin("acme", Follows("r1", (), ()), keeps=True)
    assert said == [HELLO, ANSWER]


def test_nobody_finds_another_s():
    kept = keeping()
    kept.keep("acme", "r1", [HELLO], b"answer")
    assert kept.find("acme", "r1") == b"answer"
    with pytest.raises(NotKept):
        kept.find("other", "r1")
    with pytest.raises(NotKept):
        kept.forget("other", "r1")
    with pytest.raises(InvalidRequest) as refused:
        kept.begin("other", Follows("r1", (), ()), keeps=True)
    assert refused.value.code == "previous_response_not_found"
    assert refused.value.param == "previous_response_id"


def test_what_is_forgotten_is_gone():
    kept = keeping()
    kept.keep("acme", "r1", [HELLO], b"answer")
    kept.forget("acme", "r1")
    assert kept.held_bytes == 0
    with pytest.raises(NotKept):
        kept.forget("acme", "r1")


def test_what_is_not_to_be_kept_is_not():
    kept = keeping()
    _, keeper = kept.begin("acme", Follows("", (), (HELLO,)), keeps=False)
    keeper.keep("r1", ANSWER, b"{}")
    assert kept.held_bytes == 0


def test_with_no_room_nothing_is_kept():
    kept = keeping(max_bytes=0)
    _, keeper = kept.begin("acme", Follows("", (), (HELLO,)), keeps=True)
    assert not keeper.keeps


def test_it_is_kept_for_a_while(monkeypatch):
    now_s = 100.0
    monkeypatch.setattr("gateway.conversations.time.monotonic", lambda: now_s)
    kept = keeping(keep_s=10)
    kept.keep("acme", "r1", [HELLO], b"answer")
    now_s = 109.0
    kept.keep("acme", "r2", [HELLO], b"answer")
    now_s = 111.0
    with pytest.raises(NotKept):
        kept.find("acme", "r1")
    assert kept.find("acme", "r2") == b"answer"


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9), st.integers(0, 400))))
def test_a_tenant_has_half_of_the_room_and_the_newest_stay(steps: list[tuple[str, int, int]]):
    kept = keeping(max_bytes=600)
    for tenant, number, size in steps:
        kept.keep(tenant, str(number), [], b"x" * size)
        assert kept.held_bytes <= 600
        if size + 2 <= 300:
            assert kept.find(tenant, str(number)) == b"x" * size
        sizes = {key: each.size for key, each in kept._kept.items()}
        assert kept.held_bytes == sum(sizes.values())
        for each in "ab":
            assert sum(size for key, size in sizes.items() if key[0] == each) <= 300
