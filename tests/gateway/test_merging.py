"""Several prompts' answers as one stream, and what becomes of it where one of them is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from contract.errors import GenerationError, InvalidRequestError, ServerUnavailableError
from gateway.generation import Computed, Delta
from gateway.upstreams.base import PartRefusedError
from gateway.upstreams.merging import merge

pytestmark = pytest.mark.anyio

WRONG = InvalidRequestError("too long", "input_ids", code="context_length_exceeded")
LAST = Delta(0, "", "cancelled", computed=Computed(3, 9, 0))


class Engine:
    """Has an answer under way until it is told to stop, maybe not at the first word."""

    def __init__(self, *, deaf: int = 0, says: bool | Exception = True) -> None:
        self.deaf = deaf
        self.says = says
        self.told = 0
        self.ended = asyncio.Event()
        self.was_left = False

    async def answer(self, *pieces: Delta) -> AsyncGenerator[Delta, None]:
        try:
            for piece in pieces:
                yield piece
            await self.ended.wait()
            yield LAST
        except asyncio.CancelledError:
            self.was_left = True
            raise

    async def stop(self) -> bool:
        self.told += 1
        if isinstance(self.says, Exception):
            raise self.says
        if self.told > self.deaf:
            self.ended.set()
        return self.says


async def wrong(error: Exception = WRONG) -> AsyncGenerator[Delta, None]:
    await asyncio.sleep(0.01)
    raise error
    yield


async def collect(engine: Engine, *others: Any) -> tuple[list[Delta], Exception]:
    """The pieces until it fails, and how it does."""
    pieces = []
    answers = [engine.answer(Delta(0, "a"), Delta(0, "b")), *others]
    try:
        async for delta in merge(answers, engine.stop):
            pieces.append(delta)
    except (InvalidRequestError, GenerationError) as error:
        return pieces, error
    raise AssertionError("nothing failed")


@pytest.mark.parametrize("deaf", [0, 2])
async def test_where_one_prompt_is_wrong_the_others_tell_what_was_computed(deaf):
    engine = Engine(deaf=deaf)
    pieces, error = await collect(engine, wrong())
    assert [piece.text for piece in pieces] == ["a", "b"]
    assert isinstance(error, PartRefusedError)
    assert (error.message, error.param, error.code) == (WRONG.message, WRONG.param, WRONG.code)
    assert error.last == (LAST,)
    assert engine.told == deaf + 1


async def test_two_wrong_ones_are_one():
    _, error = await collect(Engine(), wrong(), wrong())
    assert isinstance(error, PartRefusedError)


@pytest.mark.parametrize("says", [False, ServerUnavailableError("gone"), GenerationError("no")])
async def test_an_upstream_that_can_t_be_told_is_left(says):
    engine = Engine(says=says)
    _, error = await collect(engine, wrong())
    assert isinstance(error, PartRefusedError)
    assert (error.last, engine.told, engine.was_left) == ((), 1, True)


async def test_another_error_ends_all_at_once():
    engine = Engine()
    _, error = await collect(engine, wrong(GenerationError("broken")))
    assert str(error) == "broken"
    assert (engine.told, engine.was_left) == (0, True)
