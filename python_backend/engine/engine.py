"""The engine: schedule, run, sample.

Single-threaded and without a clock of its own: whoever owns it calls ``step`` while there is work.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from python_backend.engine.config import EngineConfig
from python_backend.engine.kv_cache import KVCache
from python_backend.engine.runner import Runner
from python_backend.engine.sampler import sample
from python_backend.engine.scheduler import Batch, Scheduler
from python_backend.engine.sequence import SamplingParams, Sequence
from python_backend.errors import InvalidRequestError


class Engine:
    """Continues many sequences at once."""

    def __init__(
        self,
        folder: Path,
        max_sequences: int = 32,
        max_num_tokens: int = 512,
        num_threads: int = 0,
    ) -> None:
        """Load an engine folder.

        Args:
            folder: What ``build/`` made.
            max_sequences: Most sequences that run at once; others wait.
            max_num_tokens: Budget of tokens a step.
            num_threads: Threads of one operator; 0 is one for each core.

        Raises:
            EngineError: The folder holds no usable engine.
        """
        self.config = EngineConfig.load(folder)
        self.scheduler = Scheduler(max_sequences, max_num_tokens)
        self._cache = KVCache(self.config, max_sequences)
        self._runner = Runner(folder, self.config, self._cache, num_threads)

    def check(self, prompt: NDArray[np.int32], params: SamplingParams) -> None:
        """Refuse what can never run. Any thread may call this.

        Args:
            prompt: int32 ``[tokens]``.
            params: How it is to be sampled.

        Raises:
            InvalidRequestError: The prompt is empty, has an unknown token or doesn't fit.
        """
        context, vocab_size = self.config.context_length, self.config.vocab_size
        if prompt.size == 0:
            raise InvalidRequestError("the prompt is empty; it needs at least 1 token")
        if prompt.min() < 0 or prompt.max() >= vocab_size:
            raise InvalidRequestError(
                f"input_ids has a token outside the vocabulary of {vocab_size} tokens"
            )
        if prompt.size >= context:
            raise InvalidRequestError(
                f"the prompt has {prompt.size} tokens; with the context of {context} tokens "
                f"it can have at most {context - 1}"
            )
        if prompt.size + params.max_tokens > context:
            raise InvalidRequestError(
                f"max_tokens is {params.max_tokens}; after a prompt of {prompt.size} tokens the "
                f"context of {context} tokens has room for at most {context - prompt.size}"
            )
        for name, words in (("stop_words", params.stop_words), ("bad_words", params.bad_words)):
            if any(not word or min(word) < 0 or max(word) >= vocab_size for word in words):
                raise InvalidRequestError(
                    f"{name} has an empty word or a token outside the vocabulary of {vocab_size}"
                )
        if params.embedding_bias is not None and params.embedding_bias.size > vocab_size:
            raise InvalidRequestError(
                f"embedding_bias has {params.embedding_bias.size} values; "
                f"it can have at most one for each of the {vocab_size} tokens"
            )

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence that ``check`` accepts."""
        self.scheduler.add(sequence)

    def cancel(self, sequence: Sequence) -> None:
        """End a sequence now and free its cache row. One that has ended stays as it is."""
        if not sequence.finished:
            sequence.finish_reason = "cancelled"
            self._remove(sequence)

    @property
    def has_work(self) -> bool:
        """Whether a sequence waits or runs."""
        return self.scheduler.has_work

    def step(self) -> list[Sequence]:
        """Give every sequence that can run its next token.

        Returns:
            The sequences that advanced: each has one more output token, or ended.

        Raises:
            EngineError: The graph failed. The sequences that were running are out, unfinished;
                see ``drop_running``.
        """
        batch = self.scheduler.schedule()
        advanced = self._run(batch)
        for sequence in advanced:
            if sequence.finished:
                self._remove(sequence)
        return advanced

    def drop_running(self) -> list[Sequence]:
        """Give up what runs, after a failure; what waits is untouched."""
        dropped, self.scheduler.running = self.scheduler.running, []
        return dropped

    def generate(self, prompts: list[NDArray[np.int32]], params: SamplingParams) -> list[list[int]]:
        """Continue prompts to their end; the offline way in, for tests and measurements."""
        sequences = [Sequence(prompt, params) for prompt in prompts]
        for sequence in sequences:
            self.check(sequence.prompt, params)
            self.add(sequence)
        while self.has_work:
            self.step()
        return [sequence.output for sequence in sequences]

    def _run(self, batch: Batch) -> list[Sequence]:
        advanced: list[Sequence] = []
        if batch.decodes:
            logits = self._runner.decode(
                tokens=[sequence.output[-1] for sequence in batch.decodes],
                lengths=[sequence.num_computed for sequence in batch.decodes],
            )
            for sequence in batch.decodes:
                sequence.num_computed += 1
            self._append(logits, batch.decodes)
            advanced += batch.decodes
        for chunk in batch.chunks:
            sequence, start = chunk.sequence, chunk.sequence.num_computed
            tokens = sequence.prompt[start : start + chunk.tokens]
            logits = self._runner.prefill(chunk.row, start, tokens)
            sequence.num_computed += chunk.tokens
            if not sequence.is_prefill:
                self._append(logits, [sequence])
                advanced.append(sequence)
        return advanced

    def _append(self, logits: NDArray[np.float32], sequences: list[Sequence]) -> None:
        tokens, log_probs = sample(logits, sequences)
        for sequence, token, log_prob in zip(sequences, tokens, log_probs, strict=True):
            sequence.append(token, log_prob)

    def _remove(self, sequence: Sequence) -> None:
        for move in self.scheduler.remove(sequence):
            self._cache.move(move.source, move.target, move.tokens)
