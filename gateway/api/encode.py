"""Pieces of answers in OpenAI's words: a chunk for each, or one answer of all.

A chunk is written around its text from parts that are the same for the whole stream: it is made
for every token of every stream, and the rest of the gateway costs less than building it anew would.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import orjson

from gateway.dispatch import Progress
from gateway.generation import Delta, TokenLogprob

DONE = b"[DONE]"


class Encoder(Protocol):
    """How one kind of answer is written."""

    def chunks(self, deltas: Iterable[Delta]) -> Iterator[bytes]:
        """A JSON object for each piece that says something."""

    def usage(self, progress: Progress) -> bytes | None:
        """The last chunk, with the tokens; None where it wasn't asked for."""

    def answer(self, deltas: Sequence[Delta], progress: Progress) -> bytes:
        """The whole answer, from one delta for each of its choices."""


class _Base:
    """What both kinds have in common."""

    object_name: str
    chunk_name: str
    id_prefix: str

    def __init__(
        self,
        request_id: str,
        model: str,
        service_tier: str,
        *,
        include_usage: bool = False,
    ) -> None:
        self._fields = {
            "id": f"{self.id_prefix}-{request_id}",
            "object": self.chunk_name,
            "created": int(time.time()),
            "model": model,
            "service_tier": service_tier,
        }
        self._include_usage = include_usage
        head = orjson.dumps(self._fields)[:-1]
        self._head = head + b',"choices":[{"index":'
        self._tail = b'}],"usage":null}' if include_usage else b"}]}"
        self._no_choices = head + b',"choices":[],"usage":'

    def usage(self, progress: Progress) -> bytes | None:
        if not self._include_usage:
            return None
        return self._no_choices + orjson.dumps(_usage(progress)) + b"}"

    def _answer(self, choices: list[dict[str, Any]], progress: Progress) -> bytes:
        return orjson.dumps(
            {
                **self._fields,
                "object": self.object_name,
                "choices": choices,
                "usage": _usage(progress),
            }
        )


class ChatEncoder(_Base):
    """Answers of ``/v1/chat/completions``."""

    object_name = "chat.completion"
    chunk_name = "chat.completion.chunk"
    id_prefix = "chatcmpl"

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._begun: set[int] = set()

    def chunks(self, deltas: Iterable[Delta]) -> Iterator[bytes]:
        for delta in deltas:
            if delta.index not in self._begun:
                self._begun.add(delta.index)
                yield self._chunk(delta.index, b'{"role":"assistant","content":""}', None, "")
            if delta.text or delta.logprobs:
                content = b'{"content":' + orjson.dumps(delta.text) + b"}"
                yield self._chunk(delta.index, content, delta.logprobs, delta.finish_reason)
            elif delta.finish_reason:
                yield self._chunk(delta.index, b"{}", None, delta.finish_reason)

    def answer(self, deltas: Sequence[Delta], progress: Progress) -> bytes:
        choices = [
            {
                "index": delta.index,
                "message": {"role": "assistant", "content": delta.text, "refusal": None},
                "logprobs": _chat_logprobs(delta.logprobs),
                "finish_reason": delta.finish_reason,
            }
            for delta in sorted(deltas, key=lambda delta: delta.index)
        ]
        return self._answer(choices, progress)

    def _chunk(
        self, index: int, content: bytes, logprobs: list[TokenLogprob] | None, reason: str
    ) -> bytes:
        return b"".join(
            (
                self._head,
                b"%d" % index,
                b',"delta":',
                content,
                b',"logprobs":',
                orjson.dumps(_chat_logprobs(logprobs)) if logprobs else b"null",
                b',"finish_reason":"' + reason.encode() + b'"' if reason else _NO_REASON,
                self._tail,
            )
        )


class CompletionEncoder(_Base):
    """Answers of ``/v1/completions``."""

    object_name = "text_completion"
    chunk_name = "text_completion"
    id_prefix = "cmpl"

    def __init__(
        self, *arguments: Any, echo: Sequence[str] = (), n: int = 1, **keywords: Any
    ) -> None:
        """Write answers; with `echo`, each after its prompt, `n` answers to each prompt."""
        super().__init__(*arguments, **keywords)
        self._echo = echo
        self._n = n
        self._begun: set[int] = set()
        self._offsets: dict[int, int] = {}

    def chunks(self, deltas: Iterable[Delta]) -> Iterator[bytes]:
        for delta in deltas:
            text = self._before(delta.index) + delta.text
            if text or delta.logprobs or delta.finish_reason:
                logprobs = self._logprobs(delta)
                self._begun.add(delta.index)
                yield b"".join(
                    (
                        self._head,
                        b"%d" % delta.index,
                        b',"text":',
                        orjson.dumps(text),
                        b',"logprobs":',
                        orjson.dumps(logprobs) if logprobs else b"null",
                        b',"finish_reason":"' + delta.finish_reason.encode() + b'"'
                        if delta.finish_reason
                        else _NO_REASON,
                        self._tail,
                    )
                )

    def answer(self, deltas: Sequence[Delta], progress: Progress) -> bytes:
        choices = [
            {
                "index": delta.index,
                "text": self._before(delta.index) + delta.text,
                "logprobs": self._logprobs(delta),
                "finish_reason": delta.finish_reason,
            }
            for delta in sorted(deltas, key=lambda delta: delta.index)
        ]
        return self._answer(choices, progress)

    def _before(self, index: int) -> str:
        """The prompt that goes before a choice's first piece."""
        if not self._echo or index in self._begun:
            return ""
        return self._echo[index // self._n]

    def _logprobs(self, delta: Delta) -> dict[str, Any] | None:
        """OpenAI's older form, with the place of each token in the text.

        Counted by the tokens: in a stream a part of a token's text may come before the token.
        """
        if delta.logprobs is None:
            return None
        offsets, offset = [], self._offsets.get(delta.index, 0)
        for each in delta.logprobs:
            offsets.append(offset)
            offset += len(each.token)
        self._offsets[delta.index] = offset
        return {
            "tokens": [each.token for each in delta.logprobs],
            "token_logprobs": [each.logprob for each in delta.logprobs],
            "top_logprobs": [
                {top.token: top.logprob for top in each.top} for each in delta.logprobs
            ],
            "text_offset": offsets,
        }


_NO_REASON = b',"finish_reason":null'


def _usage(progress: Progress) -> dict[str, int]:
    prompt, answer = progress.all_prompt_tokens, progress.output_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
    }


def _chat_logprobs(logprobs: list[TokenLogprob] | None) -> dict[str, Any] | None:
    if logprobs is None:
        return None
    return {
        "content": [
            {**_token(each), "top_logprobs": [_token(top) for top in each.top]} for each in logprobs
        ],
        "refusal": None,
    }


def _token(token: TokenLogprob) -> dict[str, Any]:
    raw = token.token.encode() if token.raw is None else token.raw
    return {"token": token.token, "logprob": token.logprob, "bytes": list(raw)}
