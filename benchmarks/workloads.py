"""The workloads that Trireme and its peers are measured on: six of random tokens, two of talk."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.bench_tokenizer import FIRST_WORD, VOCAB_SIZE

Prompt = NDArray[np.int32]


@dataclass(frozen=True)
class Workload:
    """Requests that arrive together.

    Attributes:
        name: As in the table.
        shared: Prompt tokens that all requests share.
        own: Prompt tokens of each request alone.
        output: Tokens to generate for each.
        concurrent: How many requests.
        is_talk: Whether prompts are questions to a real model, whose answers end by themselves;
            ``output`` is then the most they may have.
    """

    name: str
    shared: int
    own: int
    output: int
    concurrent: int
    is_talk: bool = False

    @property
    def output_tokens(self) -> int:
        """Tokens that all requests generate together."""
        return self.output * self.concurrent

    @property
    def is_latency(self) -> bool:
        """Whether the figure is the time to the first token rather than tokens a second."""
        return self.output == 1

    def prompts(self, rng: np.random.Generator) -> list[Prompt]:
        """Random prompts, new ones each time so that no cache knows them."""
        shared = _words(rng, self.shared)
        return [np.concatenate([shared, _words(rng, self.own)]) for _ in range(self.concurrent)]


WORKLOADS = (
    Workload("single", 0, 16, 128, 1),
    Workload("few", 0, 64, 64, 8),
    Workload("many", 0, 64, 64, 32),
    Workload("long", 0, 1000, 48, 16),
    Workload("shared", 900, 100, 48, 16),
    Workload("first token", 0, 512, 1, 1),
)

TALKS = (
    Workload("one talk", 0, 0, 128, 1, is_talk=True),
    Workload("32 talks", 0, 0, 128, 32, is_talk=True),
)

MOST_CONCURRENT = max(each.concurrent for each in WORKLOADS)

KV_CACHE_BYTES = 1 << 29
"""Keys and values that Trireme may keep; the longest workload needs 400 MiB of them in fp32."""


def _words(rng: np.random.Generator, count: int) -> Prompt:
    return rng.integers(FIRST_WORD, VOCAB_SIZE, count, dtype=np.int32)
