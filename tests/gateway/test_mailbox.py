"""The mailbox: nothing is lost, nothing waits, and what waits is one piece an answer."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.generation import Delta, TokenLogprob, ToolCallDelta
from gateway.mailbox import Mailbox

pytestmark = pytest.mark.anyio


async def test_what_is_not_taken_grows_together():
    mailbox = Mailbox()
    mailbox.put(Delta(0, "a", output_tokens=1, logprobs=[TokenLogprob("a", -1.0)]))
    mailbox.put(Delta(1, "x", output_tokens=1))
    mailbox.put(Delta(0, "b", "stop", 2, 7, [TokenLogprob("b", -2.0)]))
    first, second = await mailbox.take()
    assert first == Delta(0, "ab", "stop", 3, 7, [TokenLogprob("a", -1.0), TokenLogprob("b", -2.0)])
    assert second.text == "x"


async def test_what_is_told_of_the_prompt_stays_though_more_comes_first():
    mailbox = Mailbox()
    prompt = [TokenLogprob("p", None)]
    for told in (None, prompt, None):
        mailbox.put(Delta(0, "a", prompt=told))
    (taken,) = await mailbox.take()
    assert taken.prompt == prompt


async def test_what_the_maker_has_does_not_grow():
    mailbox = Mailbox()
    first, second = [TokenLogprob("a", -1.0)], [TokenLogprob("b", -2.0)]
    for logprobs in (first, second, second):
        mailbox.put(Delta(0, "a", logprobs=logprobs))
    (taken,) = await mailbox.take()
    assert taken.logprobs == [*first, *second, *second]
    assert (len(first), len(second)) == (1, 1)


async def test_the_end_and_the_error_come_after_all_pieces():
    mailbox = Mailbox()
    mailbox.put(Delta(0, "a"))
    mailbox.close(ValueError("broken"))
    assert [delta.text for delta in await mailbox.take()] == ["a"]
    with pytest.raises(ValueError, match="broken"):
        await mailbox.take()
    empty = Mailbox()
    empty.close()
    assert await empty.take() == []


async def test_a_reader_that_gave_up_loses_nothing():
    mailbox = Mailbox()
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(mailbox.take(), 0.01)
    mailbox.put(Delta(0, "a"))
    assert [delta.text for delta in await mailbox.take()] == ["a"]


async def test_the_rest_is_all_of_it_or_the_error():
    mailbox = Mailbox()
    task = asyncio.create_task(mailbox.take_rest())
    for text in "abc":
        mailbox.put(Delta(0, text))
        await asyncio.sleep(0)
    mailbox.close()
    assert [delta.text for delta in await task] == ["abc"]
    failed = Mailbox()
    failed.put(Delta(0, "a"))
    failed.close(ValueError("broken"))
    with pytest.raises(ValueError, match="broken"):
        await failed.take_rest()


@given(st.lists(st.tuples(st.integers(0, 2), st.text(max_size=3), st.booleans())))
def test_whatever_the_reader_s_pace_the_texts_are_the_same(steps):
    async def read() -> dict[int, str]:
        mailbox = Mailbox()
        texts: dict[int, str] = {}

        async def take_all() -> None:
            while deltas := await mailbox.take():
                for delta in deltas:
                    texts[delta.index] = texts.get(delta.index, "") + delta.text

        reader = asyncio.create_task(take_all())
        for index, text, pause in steps:
            mailbox.put(Delta(index, text))
            if pause:
                await asyncio.sleep(0)
        mailbox.close()
        await reader
        return texts

    expected: dict[int, str] = {}
    for index, text, _ in steps:
        expected[index] = expected.get(index, "") + text
    assert asyncio.run(read()) == expected


async def test_reasoning_and_calls_grow_together_each_by_itself():
    mailbox = Mailbox()
    begun = ToolCallDelta(0, "call_a", "add")
    for delta in (
        Delta(reasoning="so", reasoning_tokens=2, output_tokens=2),
        Delta(reasoning=" it is", text="I", reasoning_tokens=1, output_tokens=2),
        Delta(tool_calls=[begun, ToolCallDelta(0, arguments="{")]),
        Delta(tool_calls=[ToolCallDelta(0, arguments="}"), ToolCallDelta(1, "call_b", "ask")]),
    ):
        mailbox.put(delta)
    (taken,) = await mailbox.take()
    assert (taken.reasoning, taken.text, taken.reasoning_tokens) == ("so it is", "I", 3)
    assert taken.tool_calls == [
        ToolCallDelta(0, "call_a", "add", "{}"),
        ToolCallDelta(1, "call_b", "ask"),
    ]
    assert taken.written == "so it isIadd{}ask"
