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

from contract.codes import Ending, FinishReason
from python_backend.safety.finder import Span
from python_backend.safety.policy import Policy
from python_backend.safety.scanner import Scanned, Scanner, Verdict
from python_backend.text.detokenizer import Detokenizer, Vocabulary
from python_backend.text.stop import StopTexts
from python_backend.tools.answer_reader import AnswerReader
from python_backend.tools.answer_reading import Reading
from python_backend.tools.events import Arguments, CallBegun, Content, Reasoning
from python_backend.tools.thinking import ThoughtCounter

_CUT_CHARACTER = "\ufffd"
"""What stands for a character whose last bytes did not come."""


@dataclass(frozen=True)
class StreamContext:
    """What preprocessing tells postprocessing about a request, by way of the engine.

    Attributes:
        stops: Stop texts.
        min_tokens: How many tokens of the answer no stop text ends.
        include_stop: Whether the stop text is part of the answer.
        whole: The client wants one response, though the engine sends many.
        echo_tokens: How many tokens of the prompt the engine begins with.
        prompt: The prompt's tokens, where the answer begins with them and the engine does not.
        goes_on: The answer goes on with the prompt's own text, and keeps its first space.
        before: The end of that text, where the answer goes on with it and doesn't begin with it:
            what the policy takes out may begin there.
        own_end: The model's own end token ends the answer, and none that the client chose.
        verdicts: What was found in the prompt.
        reading: How thinking and calls are told apart from the text; None where they aren't.
    """

    stops: tuple[str, ...] = ()
    include_stop: bool = True
    whole: bool = False
    echo_tokens: int = 0
    prompt: tuple[int, ...] = ()
    goes_on: bool = False
    own_end: bool = True
    verdicts: tuple[dict[str, Any], ...] = ()
    min_tokens: int = 0
    before: str = ""
    reading: Reading | None = None

    def to_bytes(self) -> bytes:
        """The context as JSON; nothing where there is nothing to say."""
        if self == StreamContext():
            return b""
        reading = self.reading and self.reading.__dict__
        return json.dumps({**self.__dict__, "reading": reading}, ensure_ascii=False).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> StreamContext:
        """Read a context."""
        if not data:
            return cls()
        values = json.loads(data)
        lists = {name: (*values[name],) for name in ("stops", "prompt", "verdicts")}
        reading = values["reading"] and Reading.from_json(values["reading"])
        return cls(**{**values, **lists, "reading": reading})

    @property
    def echoes(self) -> bool:
        """Whether the answer begins with its prompt."""
        return bool(self.prompt or self.echo_tokens)


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
        said: All that the model wrote, of which the text is a part where it is read.
        reasoning: What it thought.
        calls: What it says of calls.
        num_reasoning: How many of the answer's tokens it thought with; None where it isn't read.
        verdicts: What was found, in the prompt too, as JSON values.
        found: What was found in the answer.
        tokens: The tokens of the text, where log probabilities were asked for.
        num_tokens: How many of the tokens that were added belong to the answer. Those behind the
            one with which a stop text or the policy ends it don't.
        ends_early: The answer ends here, though the engine goes on.
        stop_text: The stop text that ended it, if one did.
    """

    text: str = ""
    said: str = ""
    reasoning: str = ""
    calls: list[CallBegun | Arguments] = field(default_factory=list)
    num_reasoning: int | None = None
    finish_reason: Ending = ""
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    found: list[Verdict] = field(default_factory=list)
    tokens: list[Token] = field(default_factory=list)
    num_tokens: int = 0
    ends_early: bool = False
    stop_text: str = ""


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
        reading = context.reading
        self._detokenizer = Detokenizer(
            vocabulary,
            skip_special_tokens,
            goes_on=context.goes_on and not context.echoes,
            kept=reading.kept if reading else (),
        )
        self._reader = AnswerReader(reading, policy) if reading else None
        self._thought = ThoughtCounter(vocabulary, reading) if reading else None
        self._stops = StopTexts(context.stops, context.include_stop)
        self._scanner = Scanner(policy.output)
        if context.before and not context.echoes:
            self._scanner.follow(context.before)
        self._news = list(context.verdicts)
        self._num_tokens = 0
        self._characters = 0
        self._is_to_echo = context.echoes
        self._textless: list[Token] = []
        self._pending: deque[_Pending] = deque()
        self._taken: list[Span] = []
        # Then it matters for what comes out which token it is, and not how many come at once.
        self._one_by_one = bool(context.stops) or policy.output.blocks

    def add(
        self,
        token_ids: Sequence[int],
        engine_reason: Ending = "",
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
        piece = Piece(num_tokens=len(token_ids))
        news, self._news = self._news, []
        piece.verdicts += news
        if self._is_to_echo:
            self._is_to_echo = False
            echo = self._echo(token_ids)
            token_ids = token_ids[self.context.echo_tokens :]
            self._take(piece, self._scanner.add(echo))
        asked = None if log_probs is None else self._asked(token_ids, log_probs, top)
        step = 1 if self._one_by_one else max(1, len(token_ids))
        for start in range(0, 0 if self.ended else len(token_ids), step):
            some = token_ids[start : start + step]
            if asked is None:
                raw = self._detokenizer.add(some)
            else:
                raw = self._add_with_log_probs(asked[start : start + step])
            self._num_tokens += len(some)
            self._advance(piece, raw)
            if self.ended:
                piece.num_tokens -= len(token_ids) - start - len(some)
                break
        if engine_reason and not self.ended:
            self._end(piece, engine_reason)
        piece.said = piece.text
        if self._reader is not None:
            self._read(piece, self._reader)
        if self._thought is not None:
            piece.num_reasoning = self._thought.add(token_ids[: piece.num_tokens])
        piece.ends_early = self.ended and not engine_reason
        return piece

    def _read(self, piece: Piece, reader: AnswerReader) -> None:
        """Tell apart what the piece's text says."""
        events = reader.add(piece.text, final=bool(piece.finish_reason))
        piece.text = "".join(event.text for event in events if isinstance(event, Content))
        piece.reasoning = "".join(event.text for event in events if isinstance(event, Reasoning))
        piece.calls = [event for event in events if isinstance(event, CallBegun | Arguments)]
        found, reader.verdicts = reader.verdicts, []
        piece.found += found
        piece.verdicts += (verdict.as_json() for verdict in found)
        self.verdicts += found
        if reader.blocked:
            piece.finish_reason = "content_filter"
            self.ended = True
        elif piece.finish_reason == "stop" and reader.calls_are_whole:
            piece.finish_reason = "tool_calls"

    @property
    def _is_early(self) -> bool:
        """Whether the answer is still so short that no stop text ends it."""
        return self._num_tokens <= self.context.min_tokens

    def _advance(self, piece: Piece, raw: str) -> None:
        """Take more text of the model's; a stop text or the policy may end the answer."""
        text = self._stops.add(raw, early=self._is_early)
        self._take(piece, self._cut_at_stop(piece, text) or self._scanner.add(text))

    def _end(self, piece: Piece, reason: FinishReason) -> None:
        """Take the engine's word that it is the end."""
        rest = self._detokenizer.add([], final=True)
        self._give_text(len(rest))
        text = self._stops.add(rest, early=self._is_early)
        scanned = self._cut_at_stop(piece, text)
        if scanned is None:
            piece.finish_reason = reason
            text += self._stops.add("", final=True, early=self._is_early)
            if reason == "stop" and self.context.own_end:
                scanned = self._scanner.add(text, final=True)
            else:  # what would have followed is not known, nor what a cut character would have been
                unknown = len(rest) - len(rest.rstrip(_CUT_CHARACTER))
                scanned = self._scanner.cut(text, unknown=unknown)
        self._take(piece, scanned)

    def _cut_at_stop(self, piece: Piece, text: str) -> Scanned | None:
        """Scan the text before a stop text, if one was found: what would have followed it is not
        known, so it is no end but a cut.
        """
        if not self._stops.found:
            return None
        piece.finish_reason = "stop"
        piece.stop_text = self._stops.text
        return self._scanner.cut(text, self._stops.cut_off)

    def _take(self, piece: Piece, scanned: Scanned) -> None:
        """Put what is certain into a piece."""
        if scanned.blocked:
            piece.finish_reason = "content_filter"
        self.ended = bool(piece.finish_reason)
        piece.text += scanned.text
        piece.found += scanned.verdicts
        piece.verdicts += (verdict.as_json() for verdict in scanned.verdicts)
        piece.tokens += self._tokens_of(scanned.taken)
        self.verdicts += scanned.verdicts

    def _echo(self, token_ids: Sequence[int]) -> str:
        """The prompt's text, in which no stop text is looked for: it is whole."""
        prompt = self.context.prompt or token_ids[: self.context.echo_tokens]
        text = self._detokenizer.add(prompt, final=True)
        self._characters += len(text)
        return text

    def _asked(
        self,
        token_ids: Sequence[int],
        log_probs: Sequence[float],
        top: Sequence[Sequence[tuple[int, float]]] | None,
    ) -> list[Token]:
        """The tokens whose log probabilities were asked for."""
        likeliest = [[]] * len(token_ids) if top is None else top
        return [
            self._token(token_id, log_prob, tuple(self._token(*each) for each in others))
            for token_id, log_prob, others in zip(token_ids, log_probs, likeliest, strict=True)
        ]

    def _add_with_log_probs(self, tokens: Sequence[Token]) -> str:
        """Detokenize token by token, to know which text is whose.

        A token that makes no text by itself, such as a part of a character, goes with the text that
        comes next.
        """
        pieces: list[str] = []
        for token in tokens:
            text = self._detokenizer.add([token.id])
            self._textless.append(token)
            if text:
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
