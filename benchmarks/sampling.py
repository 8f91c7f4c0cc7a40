"""``make bench-sampling``: choosing the next token of 32 rows of 152,000 logits.

Logits are normally distributed, with a standard deviation of 1, where most of the vocabulary is
likely, and of 3, nearer to a trained model's. Ways of sampling take turns; each figure is the
median of the rounds, and the best beside it tells how busy the machine was.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import replace

import numpy as np

from python_backend.engine.processor import available_cores
from python_backend.engine.sampler import sample
from python_backend.engine.scheduled import Scheduled
from python_backend.engine.selection import load_selection
from python_backend.engine.sequence import SamplingParams, Sequence

ROWS, VOCAB, ROUNDS = 32, 152_000, 15

GREEDY = SamplingParams(max_tokens=1000)
DRAWN = replace(GREEDY, temperature=0.8, top_p=1.0)
WAYS = {
    "greedy": GREEDY,
    "greedy, log probabilities, top 20": replace(GREEDY, log_probs=True, num_top_log_probs=20),
    "temperature": DRAWN,
    "top-k 50": replace(DRAWN, top_k=50),
    "top-p 0.9": replace(DRAWN, top_p=0.9),
    "min-p 0.05": replace(DRAWN, min_p=0.05),
    "top-k 50, top-p 0.9, min-p 0.05": replace(DRAWN, top_k=50, top_p=0.9, min_p=0.05),
    "the same with penalties": replace(
        DRAWN, top_k=50, top_p=0.9, min_p=0.05, repetition_penalty=1.1, frequency_penalty=0.1
    ),
}


def main() -> int:
    """Measure and print a table."""
    selection = load_selection(available_cores())
    rng = np.random.default_rng(1)
    print(f"| {ROWS} rows of {VOCAB:,} logits | deviation | median, ms | best, ms |")
    print("|---|---:|---:|---:|")
    for deviation in (1, 3):
        logits = deviation * rng.standard_normal((ROWS, VOCAB), dtype=np.float32)
        prompt = rng.integers(0, VOCAB, 300, dtype=np.int32)
        rows = {
            way: [Scheduled(Sequence(prompt, each), 1, num_chosen=1) for _ in range(ROWS)]
            for way, each in WAYS.items()
        }
        times_s: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(ROUNDS):
            for way, work in rows.items():
                changed = logits.copy() if work[0].sequence.shapers else logits
                start_s = time.perf_counter()
                sample(changed, work, selection)
                times_s[way].append(time.perf_counter() - start_s)
        for way, each in times_s.items():
            median, best = 1000 * statistics.median(each), 1000 * min(each)
            print(f"| {way} | {deviation} | {median:.1f} | {best:.1f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
