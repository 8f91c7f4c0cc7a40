"""One sequence's answer: from tokens, piece by piece, to text that is whole and safe.

Tokens become text, the text ends at a stop text, and what of it the policy takes out is taken out.
All three hold back what is not certain, and log probabilities wait for their text.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from python_backend.safety.finder import Span
from python_backend.safety.policy import Policy
from python_backend.safety.scanner import Scanner, Verdict
from python_backend.text.detokenizer import Detokenizer, Vocabulary
from python_backend.text.stop import StopTexts


@dataclass(frozen=True)
class StreamContext:
    """What preprocessing tells postprocessing about a request, by way of the engine.

    Attributes:
        stops: Stop texts.
        include_stop: Whether the stop text is part of the answer.
        whole: The client wants one response, though the engine sends many.
        echo_tokens: How many tokens of the prompt the answer begins with.
        goes_on: The answer goes on with the prompt's own text, and keeps its first space.
        verdicts: What was found in the prompt.
    """

    stops: tuple[str, ...] = ()
    include_stop: bool = True
    whole: bool = False
    echo_tokens: int = 0
    goes_on: bool = False
    verdicts: tuple[dict[str, Any], ...] = ()

    def to_bytes(self) -> bytes:
        """The context as JSON; nothing where there is nothing to say."""
        if self == StreamContext():
            return b""
        return json.dumps(self.__dict__, ensure_ascii=False).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> StreamContext:
        """Read a context."""
        if not data:
            return cls()
        values = json.loads(data)
        return cls(**{**values, "stops": (*values["stops"],), "verdicts": (*values["verdicts"],)})


class Token(NamedTuple):
    """A token whose log probability was asked for.

    Attributes:
        id: The token.
        text: What it stands for.
        log_prob: Its log probability.
        top: The likeliest tokens in its place, if they were asked for.
    """

    id: int
    text: str
    log_prob: float
    top: tuple[Token, ...] = ()


@dataclass
class Piece:
    """What goes to the client.

    Attributes:
        text: The text that is certain.
        finish_reason: Why the answer ended; empty while it goes on.
        verdicts: What was found, in the prompt too, as JSON values.
        found: What was found in the answer.
        tokens: The tokens of the text, where log probabilities were asked for.
        ends_early: The answer ends here, though the engine goes on.
    """

    text: str = ""
    finish_reason: str = ""
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    found: list[Verdict] = field(default_factory=list)
    tokens: list[Token] = field(default_factory=list)
    ends_early: bool = False


class _Pending(NamedTuple):
    """A token that waits for its text: the characters of the stream that it makes."""

    start: int
    end: int
    token: Token


class Answer:
    """The text of one sequence.

    Owns what is not certain yet: part of a character, the beginning of a stop text, the beginning
    of what the policy takes out, and the log probabilities of all those.

    Attributes:
        policy: The policy that it is held to.
        ended: Whether the client was told the end.
        verdicts: All that was found in the answer.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        policy: Policy,
        context: StreamContext,
        skip_special_tokens: bool,
    ) -> None:
        self.policy = policy
        self.context = context
        self.ended = False
        self.verdicts: list[Verdict] = []
        self._vocabulary = vocabulary
        self._detokenizer = Detokenizer(
            vocabulary, skip_special_tokens, goes_on=context.goes_on and not context.echo_tokens
        )
        self._stops = StopTexts(context.stops, context.include_stop)
        self._scanner = Scanner(policy.output)
        self._news = list(context.verdicts)
        self._characters = 0
        self._textless: list[Token] = []
        self._pending: deque[_Pending] = deque()
        self._taken: list[Span] = []

    def add(
        self,
        token_ids: Sequence[int],
        engine_reason: str = "",
        log_probs: Sequence[float] | None = None,
        top: Sequence[Sequence[tuple[int, float]]] | None = None,
    ) -> Piece:
        """Take the next tokens.

        Args:
            token_ids: The tokens.
            engine_reason: Why the engine ended the sequence, if it did.
            log_probs: Log probabilities, if they were asked for: one for each token that is not of
                the prompt.
            top: For each of those tokens the likeliest ones and their log probabilities.

        Returns:
            What may leave. Where a stop text or the policy ends the answer before the engine does,
            it ends early, and nothing more is to be added.
        """
        final = bool(engine_reason)
        echo = self._echo(token_ids)
        token_ids = token_ids[self.context.echo_tokens :] if echo else token_ids
        if log_probs is None:
            raw = self._detokenizer.add(token_ids, final)
        else:
            raw = self._add_with_log_probs(token_ids, log_probs, top, final)
        text = echo + self._stops.add(raw, final)
        scanned = self._scanner.add(text, final or self._stops.found)
        reason = engine_reason
        if scanned.blocked:
            reason = "content_filter"
        elif self._stops.found:
            reason = "stop"
        self.ended = bool(reason)
        self.verdicts += scanned.verdicts
        news, self._news = self._news, []
        return Piece(
            scanned.text,
            reason,
            [*news, *(verdict.as_json() for verdict in scanned.verdicts)],
            scanned.verdicts,
            self._tokens_of(scanned.taken),
            ends_early=self.ended and not final,
        )

    def _echo(self, token_ids: Sequence[int]) -> str:
        """The prompt's text where the answer begins with it; no stop text is looked for in it."""
        if self._characters or not self.context.echo_tokens:
            return ""
        text = self._detokenizer.add(token_ids[: self.context.echo_tokens])
        self._characters += len(text)
        return text

    def _add_with_log_probs(
        self,
        token_ids: Sequence[int],
        log_probs: Sequence[float],
        top: Sequence[Sequence[tuple[int, float]]] | None,
        final: bool,
    ) -> str:
        """Detokenize token by token, to know which text is whose.

        A token that makes no text by itself, such as a part of a character, goes with the text that
        comes next.
        """
        pieces: list[str] = []
        for i, (token_id, log_prob) in enumerate(zip(token_ids, log_probs, strict=True)):
            text = self._detokenizer.add([token_id])
            likeliest = () if top is None else tuple(self._token(*each) for each in top[i])
            self._textless.append(self._token(token_id, log_prob, likeliest))
            if text:
                self._give_text(len(text))
                pieces.append(text)
        if final:
            text = self._detokenizer.add([], final=True)
            self._give_text(len(text))
            pieces.append(text)
        return "".join(pieces)

    def _token(self, token_id: int, log_prob: float, top: tuple[Token, ...] = ()) -> Token:
        return Token(token_id, self._vocabulary.text_of(token_id), log_prob, top)

    def _give_text(self, length: int) -> None:
        start, self._characters = self._characters, self._characters + length
        self._pending += [_Pending(start, self._characters, token) for token in self._textless]
        self._textless.clear()

    def _tokens_of(self, taken: Sequence[Span]) -> list[Token]:
        """Tokens whose text has left; those of text that was taken out are dropped."""
        if not self._pending:
            return []
        self._taken += taken
        tokens = []
        while self._pending and self._pending[0].end <= self._scanner.decided:
            start, end, token = self._pending.popleft()
            self._taken = [span for span in self._taken if span.end > start]
            if not any(span.start < end for span in self._taken):
                tokens.append(token)
        return tokens
