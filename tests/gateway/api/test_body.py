"""Large bodies are counted before they are parsed, and none holds up the loop."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.bounds import MAX_JSON_VALUES, STOP_WORDS
from gateway.api import body as body_module
from gateway.api.body import count_values, read
from gateway.api.chat import ChatTranslator
from gateway.gateway_errors import InvalidRequest

pytestmark = pytest.mark.anyio

CHAT: dict[str, Any] = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}]}
LARGE = {**CHAT, "messages": [{"role": "user", "content": "word " * 10_000}]}


async def refusal(raw: bytes | dict[str, Any]) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as error:
        await read(ChatTranslator(), raw if isinstance(raw, bytes) else orjson.dumps(raw))
    return error.value


def plainly(value: Any) -> int:
    """Commas, arrays and objects, counted in the value."""
    if isinstance(value, dict):
        return 1 + max(len(value) - 1, 0) + sum(map(plainly, value.values()))
    if isinstance(value, list):
        return 1 + max(len(value) - 1, 0) + sum(map(plainly, value))
    return 0


tricky = st.text(alphabet='",[{\\a\n', max_size=12)
values = st.recursive(
    st.none() | st.integers() | tricky,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(tricky, inner, max_size=4),
)


@given(values, st.sampled_from([2, 3, 5, 7, 1 << 18]))
def test_values_are_counted_as_a_parser_would(value, part_bytes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(body_module, "_PART_BYTES", part_bytes)
        assert count_values(json.dumps(value).encode()) == plainly(value)


@given(st.binary(max_size=40))
def test_what_is_no_json_is_counted_somehow(raw):
    assert 0 <= count_values(raw) <= len(raw)


async def test_too_many_values_are_refused_before_they_are_made(monkeypatch):
    raw = b'{"messages":[' + b",".join([b"{}"] * 400_000) + b"]}"
    monkeypatch.setattr(body_module, "_read", None)
    error = await refusal(raw)
    assert error.message == f"the body has 800001 values; it must have at most {MAX_JSON_VALUES}"


async def test_a_chat_as_long_as_it_may_be_is_read():
    message = {"role": "user", "content": [{"type": "text", "text": "a"}]}
    await read(ChatTranslator(), orjson.dumps({**CHAT, "messages": [message] * 4096}))


@pytest.mark.parametrize(("value", "in_thread"), [(CHAT, False), (LARGE, True)])
async def test_a_large_body_is_read_beside_the_loop(value, in_thread):
    threads: list[threading.Thread] = []

    class Noting(ChatTranslator):
        def wish(self, body):
            threads.append(threading.current_thread())
            return super().wish(body)

    await read(Noting(), orjson.dumps(value))
    assert [each is not threading.main_thread() for each in threads] == [in_thread]


@pytest.mark.parametrize(
    ("more", "param", "said"),
    [
        ({"stop": ["x" * 1000] * 5}, "stop", f"at most {STOP_WORDS.most_bytes}"),
        ({"stop": "é" * 3000}, "stop", "the texts have 6000 bytes"),
        ({"logit_bias": {"1" * 100_000: 1}}, "logit_bias", "is no token id"),
        ({"x" * 100_000: 1}, "x" * 64, "unknown parameter"),
        ({"metadata": {"x" * 100_000: "a"}}, "metadata", "at most 64"),
        ({"n": 10**9}, "n", "less than or equal to 64"),
        ({"messages": [{"role": "user", "content": "a", "y" * 100_000: 1}]}, "messages", "unknown"),
    ],
)
async def test_a_bound_is_told_by_its_field_and_in_few_words(more, param, said):
    error = await refusal({**CHAT, **more})
    assert str(error.param).startswith(param)
    assert said in error.message
    assert len(error.message) < 400
    assert len(str(error.param)) < 200


async def test_what_huge_bodies_took_of_memory_is_given_back_once_they_are_done(monkeypatch):
    given_back: list[bool] = []
    monkeypatch.setattr(body_module, "_GIVEN_BACK_AFTER_S", 0.2)
    monkeypatch.setattr(body_module, "give_back_memory", lambda: given_back.append(True))
    huge = orjson.dumps({**CHAT, "messages": [{"role": "user", "content": "word " * 300_000}]})
    for raw in (orjson.dumps(LARGE), huge, huge):
        await read(ChatTranslator(), raw)
    assert not given_back
    await asyncio.sleep(1)
    assert given_back == [True]
