"""Bodies: counted, parsed and checked where that holds up nobody else.

What one client sends must not keep the event loop from the others. A large body is counted first,
in a thread and without Python's lock: what has more values than are read is refused before any of
them becomes an object. Then it is parsed and checked in that thread.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, NamedTuple

import anyio
import numpy as np
import orjson
from pydantic import BaseModel, ValidationError

from clients.aside import in_thread
from contract.bounds import MAX_JSON_VALUES
from contract.memory import give_back_memory
from gateway.api.error_objects import invalid
from gateway.api.translator import Endpoint, Translator
from gateway.gateway_errors import InvalidRequest
from gateway.order import Wish

_SMALL_BYTES = 16 << 10
"""Read at once: a thread would take longer than this can."""
_AT_ONCE = 1
"""Large bodies that are read at a time, and as many huge ones, behind which no other stands in
line: more would wait for each other, and the loop for all."""
_QUOTE, _BACKSLASH = ord('"'), ord("\\")
_HUGE_BYTES = 1 << 20
_GIVEN_BACK_AFTER_S = 2.0
"""After so long without a huge body, what the last ones took of memory is given back."""
_COMMA, _ARRAY, _OBJECT = ord(","), ord("["), ord("{")
_PART_BYTES = 256 << 10

_limiters: dict[bool, anyio.CapacityLimiter] = {}
_giving_back: asyncio.TimerHandle | None = None


class Read(NamedTuple):
    """A body that was read.

    Attributes:
        body: What it says.
        wish: What that asks for.
    """

    body: BaseModel
    wish: Wish


async def read(endpoint: Endpoint[Any], raw: bytes, *, streaming: bool = False) -> Read:
    """Read a body strictly: no NaN, and no text that isn't Unicode.

    Args:
        endpoint: What it is sent to.
        raw: The body.
        streaming: It asks for a stream, whatever it says of that.

    Raises:
        InvalidRequest: It is no JSON, or a field of it is wrong.
    """
    if len(raw) <= _SMALL_BYTES:
        return _read(endpoint, raw, streaming)
    is_huge = len(raw) > _HUGE_BYTES
    if is_huge:
        _give_back_later()
    if is_huge not in _limiters:
        _limiters[is_huge] = anyio.CapacityLimiter(_AT_ONCE)
    return await in_thread(partial(_read_large, endpoint, raw, streaming), _limiters[is_huge])


def _give_back_later() -> None:
    """Have memory given back when the huge bodies of now are done with, in a thread."""
    global _giving_back
    loop = asyncio.get_running_loop()
    if _giving_back is not None:
        _giving_back.cancel()
    _giving_back = loop.call_later(
        _GIVEN_BACK_AFTER_S, loop.run_in_executor, None, give_back_memory
    )


def count_values(raw: bytes) -> int:
    """About how many values some JSON has: its commas, arrays and objects, those in texts left out.

    What isn't JSON gets a number as well. It is looked at in parts: what numpy does with one takes
    less than a millisecond.
    """
    values, in_text, start = 0, False, 0
    while start < len(raw):
        part = np.frombuffer(raw, np.uint8, min(_PART_BYTES, len(raw) - start), start)
        quotes = part == _QUOTE
        escapes = np.flatnonzero(part == _BACKSLASH)
        start += part.size
        if escapes.size:  # what follows an odd number of backslashes is a text's own
            begins = np.flatnonzero(np.diff(escapes, prepend=-2) != 1)
            lengths = np.diff(begins, append=escapes.size)
            escaped = (escapes[begins] + lengths)[lengths % 2 == 1]
            if escaped.size and escaped[-1] == part.size:
                # The next part begins with the last of them; a part has two bytes at least.
                start -= start < len(raw)
                escaped = escaped[:-1]
            quotes[escaped] = False
        texts = np.bitwise_xor.accumulate(quotes) ^ in_text
        opening = (part == _COMMA) | (part == _ARRAY) | (part == _OBJECT)
        values += int(np.count_nonzero(opening & ~texts))
        in_text = bool(texts[-1])
    return values


def _read_large(endpoint: Endpoint[Any], raw: bytes, streaming: bool) -> Read:
    values = count_values(raw)
    if values > MAX_JSON_VALUES:
        raise InvalidRequest(
            f"the body has {values} values; it must have at most {MAX_JSON_VALUES}",
            code="invalid_value",
        )
    return _read(endpoint, raw, streaming)


def _read(endpoint: Endpoint[Any], raw: bytes, streaming: bool) -> Read:
    try:
        value = orjson.loads(raw)
    except ValueError:
        raise InvalidRequest("the body is not valid JSON", code="invalid_json") from None
    if streaming and isinstance(value, dict) and isinstance(endpoint, Translator):
        value = endpoint.streaming(value)
    try:
        body = endpoint.body.model_validate(value)
    except ValidationError as error:
        raise invalid(error) from None
    return Read(body, endpoint.wish(body))
