"""What is known of a request under way: who answers, what has come, what is to be paid for."""

from __future__ import annotations

from dataclasses import dataclass, field

from contract.codes import FinishReason
from gateway.generation import Computed, Delta


@dataclass
class Progress:
    """What is known of a run so far.

    Attributes:
        n: How many answers each prompt has.
        upstream: Who answers; empty while nobody does.
        version: What the answer calls the model.
        queue_s: How long it waited for a place.
        ttft_s: Time from its arrival to the first piece; None while there is none.
        prompt_tokens: Of each prompt, by its index.
        output_tokens: Of all answers.
        reasoning_tokens: Those of them that the model thought with.
        finish_reasons: Of each answer, by its index.
        texts: The pieces of each answer, by its index.
        verdicts: What the safety policy found.
        computed: What was done for each answer, by its index, where the upstream tells.
        attempts: How many upstreams were asked.
    """

    n: int = 1
    upstream: str = ""
    version: str = ""
    queue_s: float = 0.0
    ttft_s: float | None = None
    prompt_tokens: dict[int, int] = field(default_factory=dict)
    output_tokens: int = 0
    reasoning_tokens: int = 0
    finish_reasons: dict[int, FinishReason] = field(default_factory=dict)
    texts: dict[int, list[str]] = field(default_factory=dict)
    verdicts: list[str] = field(default_factory=list)
    computed: dict[int, Computed] = field(default_factory=dict)
    attempts: int = 0

    def add(self, delta: Delta) -> None:
        """Count a piece of one of the answers."""
        if delta.prompt_tokens is not None:
            self.prompt_tokens[delta.index // self.n] = delta.prompt_tokens
        self.output_tokens += delta.output_tokens
        self.reasoning_tokens += delta.reasoning_tokens
        if delta.says_something:
            self.texts.setdefault(delta.index, []).append(delta.written)
        if delta.finish_reason:
            self.finish_reasons[delta.index] = delta.finish_reason
        self.verdicts += delta.verdicts
        if delta.computed is not None:
            self.computed[delta.index] = delta.computed

    @property
    def all_prompt_tokens(self) -> int:
        """Length of all prompts."""
        return sum(self.prompt_tokens.values())

    @property
    def cached_tokens(self) -> int:
        """Tokens of all prompts that were in a cache, whichever of their answers was computed."""
        of_prompt: dict[int, int] = {}
        for index, computed in self.computed.items():
            known = of_prompt.get(index // self.n, computed.cached)
            of_prompt[index // self.n] = min(known, computed.cached)
        return sum(of_prompt.values())

    @property
    def charged_prompt_tokens(self) -> int:
        """Tokens of prompts to be paid for: those computed, or all where nobody tells."""
        if not self.computed:
            return self.all_prompt_tokens
        return sum(each.prompt for each in self.computed.values())

    @property
    def charged_output_tokens(self) -> int:
        """Tokens of answers to be paid for: those generated, or else those of the answers."""
        if not self.computed:
            return self.output_tokens
        return sum(each.output for each in self.computed.values())

    @property
    def answer(self) -> str:
        """All answers, one after the other."""
        return "\n".join("".join(self.texts[index]) for index in sorted(self.texts))
