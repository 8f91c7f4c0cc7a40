"""``make bench-budget``: what the token budget of a step does to running streams and to a prompt.

Eight streams decode when a prompt of 1,000 tokens arrives. A small budget keeps the gap between two
tokens of the streams short, a large one computes the prompt in fewer steps. The int8 engine of
Qwen2.5-0.5B's shape, in process; budgets take turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.bench_checkpoint import CONFIG, make_checkpoint
from build.engine_folder import build_engine
from python_backend.engine.onnx_engine import OnnxEngine
from python_backend.engine.sequence import SamplingParams, Sequence

BUDGETS = (32, 64, 128, 256, 512, 1024)
STREAMS, PROMPT_TOKENS, ROUNDS = 8, 1000, 3


def measure(engine: OnnxEngine, rng: np.random.Generator) -> tuple[float, float]:
    """The longest gap between two tokens of the streams while the prompt is computed, and the time
    to the prompt's first token, both in milliseconds.
    """

    def sequence(tokens: int, output: int) -> Sequence:
        prompt = rng.integers(10, CONFIG["vocab_size"], tokens, dtype=np.int32)
        return Sequence(prompt, SamplingParams(max_tokens=output))

    streams = [sequence(16, 1000) for _ in range(STREAMS)]
    for stream in streams:
        engine.add(stream)
    while any(len(stream.output) < 4 for stream in streams):
        engine.step()
    late = sequence(PROMPT_TOKENS, 1)
    start = last = time.perf_counter()
    engine.add(late)
    longest = 0.0
    while not late.finished:
        engine.step()  # each stream gets a token in every step
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    engine.drop_running()
    return 1000 * longest, 1000 * (last - start)


def main() -> int:
    """Measure, print a table and write ``reports/budget.json``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.budget", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(".cache/benchmarks"))
    folder: Path = parser.parse_args().folder
    checkpoint = make_checkpoint(folder / "qwen2.5-0.5b")
    build_engine(checkpoint, folder / "int8" / "1", "int8")
    engines = {
        budget: OnnxEngine(folder / "int8" / "1", max_num_tokens=budget) for budget in BUDGETS
    }
    rng = np.random.default_rng(1)
    found: dict[int, list[tuple[float, float]]] = {budget: [] for budget in BUDGETS}
    for round_ in range(ROUNDS + 1):
        for budget, engine in engines.items():
            figures = measure(engine, rng)
            if round_:  # the first warms up
                found[budget].append(figures)
    report = {
        budget: {
            "longest_gap_ms": round(statistics.median(gap for gap, _ in figures), 1),
            "first_token_ms": round(statistics.median(first for _, first in figures), 1),
        }
        for budget, figures in found.items()
    }
    Path("reports").mkdir(exist_ok=True)
    Path("reports/budget.json").write_text(json.dumps(report, indent=2) + "\n")
    print("| max_num_tokens | longest gap of 8 streams, ms | first token of 1,000, ms |")
    print("|---:|---:|---:|")
    for budget, row in report.items():
        print(f"| {budget} | {row['longest_gap_ms']:,.0f} | {row['first_token_ms']:,.0f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
