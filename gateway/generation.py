"""What is generated, in no API's words: a generation, a try at it, and the pieces that come back.

APIs turn requests into generations, upstreams turn them into pieces, and neither knows the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import orjson
from typing_extensions import Self

from contract.codes import Ending
from contract.parameters import GenerationParameters
from gateway.interfaces import TenantClass

STOP_GRACE_S = 2.0
"""How long an upstream that was asked to end a job may take to tell what it came to."""

Message = Mapping[str, Any]
"""One message of a chat, as OpenAI's API has it."""


@dataclass(frozen=True)
class Prompt:
    """What is to be gone on with.

    Attributes:
        encoded: All of it as bytes: for its length, its digest, and who takes it as it is.
        beginning: What of it the next request of the same conversation will begin with.
    """

    encoded: bytes
    beginning: bytes

    @property
    def operation(self) -> str:
        """What the GenAI conventions call going on with it."""
        raise NotImplementedError

    def __len__(self) -> int:
        """How many are to be gone on with."""
        raise NotImplementedError


@dataclass(frozen=True)
class Chat(Prompt):
    """A chat: ``encoded`` is its messages as JSON, ``beginning`` up to its user's first."""

    @classmethod
    def of(cls, messages: Sequence[Message]) -> Self:
        """Encode messages, each once."""
        encoded = [orjson.dumps(message) for message in messages]
        users = (place for place, each in enumerate(messages) if each["role"] == "user")
        opening = encoded[: next(users, len(messages)) + 1]
        whole = b"[%b]" % b",".join(encoded)
        is_all = len(opening) == len(encoded)
        return cls(whole, whole if is_all else b"[%b]" % b",".join(opening))

    @property
    def operation(self) -> str:
        return "chat"

    def __len__(self) -> int:
        return 1


@dataclass(frozen=True)
class Texts(Prompt):
    """Texts, each to be gone on with.

    Attributes:
        texts: They.
        special_tokens: Whether each gets what the tokenizer begins or ends a text with.
    """

    texts: tuple[str, ...]
    special_tokens: bool = True

    @classmethod
    def of(cls, texts: Sequence[str], special_tokens: bool = True) -> Self:
        """Encode texts."""
        encoded = "\n".join(texts).encode()
        return cls(encoded, encoded, tuple(texts), special_tokens)

    @property
    def operation(self) -> str:
        return "text_completion"

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class Tokens(Prompt):
    """Tokens, by their ids, to be gone on with.

    Attributes:
        rows: Those of each prompt.
    """

    rows: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> Self:
        """Encode tokens."""
        encoded = orjson.dumps(rows)
        return cls(encoded, encoded, tuple(map(tuple, rows)))

    @property
    def operation(self) -> str:
        return "text_completion"

    def __len__(self) -> int:
        return len(self.rows)


AnyPrompt = Chat | Texts | Tokens


@dataclass(frozen=True)
class Generation:
    """What one request generates; it stays as it is made, whoever is asked for it.

    Attributes:
        request_id: Names the request in logs and traces.
        prompt: What is to be gone on with.
        parameters: How.
        stream: Whether pieces are wanted as they are made, or each answer in one.
        tenant_class: The priority.
        policy: The safety policy; None is the upstream's own.
        tenant: Whose share of an upstream it takes; empty is nobody's.
        is_probe: It only looks whether tokens are made, and waits behind nobody.
    """

    request_id: str
    prompt: AnyPrompt
    parameters: GenerationParameters
    stream: bool
    tenant_class: TenantClass
    policy: str | None
    tenant: str = ""
    is_probe: bool = False

    @property
    def n(self) -> int:
        """How many answers to each prompt."""
        return self.parameters.num_return_sequences or 1

    @property
    def num_answers(self) -> int:
        """How many answers it makes in all."""
        return self.n * len(self.prompt)


@dataclass(frozen=True)
class Job:
    """One try at a generation, as an upstream gets it.

    Attributes:
        generation: What is wanted.
        request_id: Names the try in the engine's log and traces; no two that run share one.
        model: What the upstream calls the model.
        timeout_s: How long it may take in all.
        headers: Trace context for the upstream.
    """

    generation: Generation
    request_id: str
    model: str
    timeout_s: float
    headers: Mapping[str, str] = field(default_factory=dict)


class TokenLogprob(NamedTuple):
    """One token and how likely it was.

    Attributes:
        token: Its text; bytes that are no character alone are replaced.
        logprob: Natural logarithm of its probability; None where that isn't known.
        raw: Its bytes, where they are known.
        top: The likeliest tokens at its place.
        id: Its id, where it is known.
    """

    token: str
    logprob: float | None
    raw: bytes | None = None
    top: tuple[TokenLogprob, ...] = ()
    id: int | None = None


class Computed(NamedTuple):
    """What an engine did for one answer, until now.

    Attributes:
        prompt: Tokens of its prompt that were computed.
        output: Tokens that were generated, also those that are no part of the answer.
        cached: Tokens of its prompt that the engine had from an earlier request.
    """

    prompt: int
    output: int
    cached: int


@dataclass(frozen=True)
class ToolCallDelta:
    """What was added to one call of a function.

    Attributes:
        index: Which call of its answer, from 0.
        id: The call's id, where it begins.
        name: The function's name, where it begins.
        arguments: What follows of its arguments, which are JSON when the call is whole.
    """

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass
class Delta:
    """What was added to one answer.

    Attributes:
        index: Which answer, from 0: the prompt's index times `n`, and the answer's own.
        text: What follows.
        finish_reason: Why it ended; empty while it goes on.
        output_tokens: Tokens generated for this text.
        prompt_tokens: Length of the prompt; None where this delta doesn't say.
        logprobs: Of each token, where they were asked for.
        verdicts: What the safety policy found, as ``output:email:redact``.
        computed: What was done for the answer; None where the upstream doesn't tell.
        prompt: The prompt's tokens, where they were asked for, in an answer's first piece.
        reasoning: What follows of the model's thinking, which comes before the text.
        tool_calls: What follows of calls, in order, which come behind the text.
        reasoning_tokens: How many of `output_tokens` it thought with.
        stop_text: The stop text that ended it, where one did and that is known.
    """

    index: int = 0
    text: str = ""
    finish_reason: Ending = ""
    output_tokens: int = 0
    prompt_tokens: int | None = None
    logprobs: list[TokenLogprob] | None = None
    verdicts: tuple[str, ...] = ()
    computed: Computed | None = None
    prompt: list[TokenLogprob] | None = None
    reasoning: str = ""
    tool_calls: list[ToolCallDelta] = field(default_factory=list)
    reasoning_tokens: int = 0
    stop_text: str = ""

    @property
    def says_something(self) -> bool:
        """Whether it has text of any kind."""
        return bool(self.text or self.reasoning or self.tool_calls)

    @property
    def written(self) -> str:
        """All that the model wrote."""
        calls = (each.name + each.arguments for each in self.tool_calls)
        return "".join((self.reasoning, self.text, *calls))

    def add_tool_calls(self, more: Iterable[ToolCallDelta]) -> None:
        """Add what follows of calls: one entry for each of them."""
        by_index = {each.index: each for each in self.tool_calls}
        for each in more:
            known = by_index.get(each.index)
            if known is not None:
                each = replace(known, arguments=known.arguments + each.arguments)
            by_index[each.index] = each
        self.tool_calls = list(by_index.values())

    @property
    def num_entries(self) -> int:
        """How many tokens it tells the probability of."""
        told = (*(self.prompt or ()), *(self.logprobs or ()))
        return sum(1 + len(each.top) for each in told)
