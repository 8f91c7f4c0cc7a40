"""Between the one who makes an answer and the one who sends it on: what is there but not taken.

The maker never waits. What the sender has not taken yet grows together, piece by piece of one
answer, so that a slow reader costs the memory of its answer's text and holds up nobody, and a busy
gateway sends fewer and longer chunks instead of falling behind.
"""

from __future__ import annotations

import asyncio

from gateway.generation import Delta


class Mailbox:
    """The pieces of one request on their way from one task to another."""

    def __init__(self) -> None:
        self._deltas: dict[int, Delta] = {}
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False
        self._error: Exception | None = None

    def put(self, delta: Delta) -> None:
        """Add a piece."""
        pending = self._deltas.get(delta.index)
        if pending is None:
            if delta.logprobs is not None:
                delta.logprobs = [*delta.logprobs]  # it grows here, and may be long
            self._deltas[delta.index] = delta
        else:
            pending.text += delta.text
            pending.finish_reason = delta.finish_reason or pending.finish_reason
            pending.stop_text = delta.stop_text or pending.stop_text
            pending.output_tokens += delta.output_tokens
            pending.reasoning += delta.reasoning
            pending.reasoning_tokens += delta.reasoning_tokens
            if delta.tool_calls:
                pending.add_tool_calls(delta.tool_calls)
            if delta.prompt_tokens is not None:
                pending.prompt_tokens = delta.prompt_tokens
            if delta.prompt is not None:
                pending.prompt = delta.prompt
            if delta.logprobs is not None:
                if pending.logprobs is None:
                    pending.logprobs = []
                pending.logprobs += delta.logprobs
        self._wake()

    def close(self, error: Exception | None = None) -> None:
        """Nothing more comes; what is there can still be taken, and then the error is raised.

        Only once, and without the way that it came: that leads to the one who closes, and so to
        this mailbox. Such a ring is freed by the search for garbage alone, which holds everybody.
        """
        self._closed = True
        self._error = error
        if error is not None:
            error.__traceback__ = error.__context__ = error.__cause__ = None
        self._wake()

    async def take(self) -> list[Delta]:
        """All pieces that are there, at most one an answer; waits for one. Empty at the end.

        Raises:
            Exception: What the mailbox was closed with.
        """
        while not self._deltas and not self._closed:
            await self._change()
        return self._take()

    async def take_rest(self) -> list[Delta]:
        """All that will still come, one piece an answer.

        Raises:
            Exception: What the mailbox was closed with; what came before it is dropped.
        """
        while not self._closed:
            await self._change()
        self._fail()
        return self._take()

    def _take(self) -> list[Delta]:
        if not self._deltas:
            self._fail()
        deltas, self._deltas = list(self._deltas.values()), {}
        return deltas

    def _fail(self) -> None:
        if self._error is None:
            return
        try:
            raise self._error
        finally:
            self._error = None

    async def _change(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
