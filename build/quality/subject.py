"""An engine under examination: the very engine that serves (``python_backend.engine``).

Nothing is computed here in another way than in production. Where a text is given, the engine reads
it as a prompt, batched and with its KV cache as ever, and reports how likely its tokens are.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from build.build_errors import BuildError
from build.progress import Progress, silent
from build.quality.suite import Suite
from contract.memory import give_back_memory
from python_backend.engine.onnx_engine import OnnxEngine
from python_backend.engine.sequence import SamplingParams, Sequence
from python_backend.text.detokenizer import Detokenizer
from python_backend.text.tokenizer import TextTokenizer

Tokens = NDArray[np.int32]

_KV_CACHE_BYTES = 1 << 30
_MARGIN_TOKENS = 16


@dataclass(frozen=True)
class Answers:
    """What an engine said.

    Attributes:
        tokens: Of each answer, without the end token.
        texts: The same, as text.
        tokens_per_s: Over all of them, batched.
    """

    tokens: list[list[int]]
    texts: list[str]
    tokens_per_s: float


class Subject:
    """An engine with its tokenizer."""

    def __init__(self, folder: Path, progress: Progress = silent) -> None:
        """Load an engine folder.

        Args:
            folder: The engine.
            progress: Told how many of the suite's sequences are done.

        Raises:
            EngineError: It holds no usable engine.
        """
        give_back_memory()  # before an engine comes on top
        self._progress = progress
        self._engine = OnnxEngine(folder, kv_cache_bytes=_KV_CACHE_BYTES)
        self._tokenizer = TextTokenizer.load(folder)
        self._end_ids = frozenset(self._engine.config.end_token_ids)

    def prompts(self, suite: Suite) -> list[Tokens]:
        """The tokens of each prompt, in the chat template where there is one."""
        template = self._tokenizer.chat_template if suite.chat else None
        if template is None:
            return [self._tokenizer.encode(each.prompt, True) for each in suite.items]
        rendered = (
            template.render([{"role": "user", "content": item.prompt}]) for item in suite.items
        )
        return [self._tokenizer.encode(text, add_special_tokens=False) for text in rendered]

    def answers(self, suite: Suite) -> Answers:
        """Answer greedily, as a client without options would be answered."""
        prompts = self.prompts(suite)
        params = []
        for prompt, item in zip(prompts, suite.items, strict=True):
            # What is much longer than the right answer is wrong, and need not be waited for.
            longest = self._tokenizer.encode(item.answer, False).size + _MARGIN_TOKENS
            room = self._room(prompt, min(longest, suite.max_tokens))
            params.append(SamplingParams(max_tokens=room, end_ids=self._end_ids))
        sequences = [Sequence(*each) for each in zip(prompts, params, strict=True)]
        start = time.perf_counter()
        self._run(sequences, "answers")
        duration_s = time.perf_counter() - start
        tokens = [sequence.output for sequence in sequences]
        vocabulary = self._tokenizer.vocabulary
        texts = [Detokenizer(vocabulary).add(output, final=True) for output in tokens]
        return Answers(tokens, texts, sum(map(len, tokens)) / duration_s)

    def log_probs(self, suite: Suite) -> list[float]:
        """The log probability of each token of the suite's own answers, given all before it."""
        end = self._engine.config.end_token_ids[:1] if suite.chat else ()
        answers = [
            [*self._tokenizer.encode(item.answer, False).tolist(), *end] for item in suite.items
        ]
        scored = self._score(suite, answers, "perplexity")
        return [each.chosen for sequence in scored for each in sequence.prompt_log_probs]

    def agreement(self, suite: Suite, answers: list[list[int]]) -> float:
        """The share of tokens that the engine, too, would have chosen at their place."""
        same = [
            each.top_ids[0] == token
            for sequence in self._score(suite, answers, "agreement")
            for each, token in zip(
                sequence.prompt_log_probs,
                sequence.prompt[-len(sequence.prompt_log_probs) :].tolist(),
                strict=True,
            )
        ]
        if not same:
            raise BuildError("the reference answered nothing, so there is nothing to agree with")
        return sum(same) / len(same)

    def _score(self, suite: Suite, answers: list[list[int]], what: str) -> list[Sequence]:
        """Read the suite's prompts with answers to them, and tell how likely the answers are."""
        sequences = []
        for prompt, answer in zip(self.prompts(suite), answers, strict=True):
            answer = answer[: self._room(prompt, len(answer))]
            if answer:
                text = np.concatenate([prompt, np.array(answer, dtype=np.int32)])
                params = SamplingParams(
                    max_tokens=0, num_prompt_log_probs=len(answer), num_top_log_probs=1
                )
                sequences.append(Sequence(text, params))
        self._run(sequences, what)
        return sequences

    def _room(self, prompt: Tokens, wanted: int) -> int:
        """How many tokens fit after a prompt, up to those that are wanted."""
        context = self._engine.config.context_length
        if len(prompt) >= context:
            raise BuildError(
                f"a prompt of the quality suite has {len(prompt)} tokens, "
                f"and the engine's context {context}"
            )
        return min(wanted, context - len(prompt))

    def _run(self, sequences: list[Sequence], what: str) -> None:
        for sequence in sequences:
            self._engine.check(sequence.prompt, sequence.params)
            self._engine.add(sequence)
        while self._engine.has_work:
            self._engine.step()
            done = sum(sequence.finished for sequence in sequences)
            self._progress(f"quality: {what}", done, len(sequences))
