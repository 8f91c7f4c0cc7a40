"""``make bench-scoring``: a long prompt's log probabilities, by rows of logits a step.

A row takes 0.6 MB for a vocabulary of 152,000. More rows a step let a prompt be scored in fewer
steps; their memory is taken where they are first used, and kept. The int8 engine of Qwen2.5-0.5B's
shape, in process; an engine for each number of rows, one after the other in each round. Times are
of the processor, all threads together, so that other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.bench_checkpoint import CONFIG, make_checkpoint
from benchmarks.memory_use import memory_bytes
from build.engine_folder import build_engine
from python_backend.engine.onnx_engine import OnnxEngine
from python_backend.engine.sequence import SamplingParams, Sequence

SPARE_ROWS = (8, 32, 64, 128, 512)
PROMPT_TOKENS = 2000


def score(engine: OnnxEngine, rng: np.random.Generator, scored: int) -> float:
    """Processor seconds until a prompt is read and so many of its tokens are scored."""
    prompt = rng.integers(10, CONFIG["vocab_size"], PROMPT_TOKENS, dtype=np.int32)
    sequence = Sequence(prompt, SamplingParams(max_tokens=1, num_prompt_log_probs=scored))
    engine.add(sequence)
    start = time.process_time()
    while not sequence.finished:
        engine.step()
    if len(sequence.prompt_log_probs) != scored:
        raise RuntimeError("not all tokens were scored")
    return time.process_time() - start


def measure(folder: Path, spare_rows: int, rng: np.random.Generator) -> tuple[float, float, float]:
    """Processor seconds without and with log probabilities, and the megabytes that these take."""
    engine = OnnxEngine(folder, spare_rows=spare_rows)
    plain_s = min(score(engine, rng, 0) for _ in range(2))
    before = memory_bytes(os.getpid()) - engine.kv_cache_resident_bytes
    scored_s = score(engine, rng, PROMPT_TOKENS - 1)
    after = memory_bytes(os.getpid()) - engine.kv_cache_resident_bytes
    return plain_s, scored_s, (after - before) / 1e6


def main() -> int:
    """Measure, print a table and write ``reports/scoring.json``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scoring", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(".cache/benchmarks"))
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    engine = arguments.folder / "int8" / "1"
    checkpoint = make_checkpoint(arguments.folder / "qwen2.5-0.5b")
    build_engine(checkpoint, engine, "int8")
    rng = np.random.default_rng(1)
    found: dict[int, list[tuple[float, float, float]]] = {rows: [] for rows in SPARE_ROWS}
    for _ in range(arguments.rounds):
        for rows, figures in found.items():
            figures.append(measure(engine, rows, rng))
    report = {}
    for rows, figures in found.items():
        plain_s, scored_s, megabytes = np.median(figures, axis=0).tolist()
        report[rows] = {
            "read_s": round(plain_s, 3),
            "scored_s": round(scored_s, 3),
            "megabytes": round(megabytes),
        }
    Path("reports").mkdir(exist_ok=True)
    Path("reports/scoring.json").write_text(json.dumps(report, indent=2) + "\n")
    print(f"| spare rows | {PROMPT_TOKENS:,} tokens read, s | and scored, s | memory, MB |")
    print("|---:|---:|---:|---:|")
    for rows, row in report.items():
        print(f"| {rows} | {row['read_s']:.1f} | {row['scored_s']:.1f} | {row['megabytes']} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
