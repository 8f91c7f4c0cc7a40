"""``make bench-cache``: what the paged KV cache wastes, what it saves, and what its limit costs.

Three figures of an engine in process, the demo's unless ``--engine`` names another: memory that is
resident beyond what tokens take; the time to the first token with a prefix of 900 tokens known
against unknown; and how often sequences are put off in a cache a third of what they need, with the
same output.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from python_backend.engine.attention import BLOCK_TOKENS
from python_backend.engine.onnx_engine import OnnxEngine
from python_backend.engine.sequence import SamplingParams, Sequence

SEQUENCES = 32
PREFIX_TOKENS = 900
ROUNDS = 7


def main() -> int:
    """Measure, print and write ``reports/cache.json``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cache_use", description=__doc__)
    parser.add_argument("--engine", type=Path, default=Path("model_repository/tensorrt_llm/1"))
    folder: Path = parser.parse_args().engine
    rng = np.random.default_rng(1)
    report = {
        "waste": waste(OnnxEngine(folder, kv_cache_bytes=8 << 30), rng),
        "prefix": prefix(OnnxEngine(folder), rng),
        "preemption": preemption(folder, rng),
    }
    Path("reports").mkdir(exist_ok=True)
    Path("reports/cache.json").write_text(json.dumps(report, indent=2) + "\n")
    print(
        "KV cache waste: {resident_bytes:,} bytes resident for {used_bytes:,} used by {tokens:,} "
        "tokens of {sequences} sequences: {waste:.1%}\n".format(**report["waste"])
        + "First token after {tokens} tokens: {cold_ms:.1f} ms unknown, {warm_ms:.1f} ms known but "
        "for {own} of them: {ratio:.3f} (median of {rounds} rounds)\n".format(**report["prefix"])
        + "A third of the memory: {preempted} times a sequence was put off, {same} of {sequences} "
        "outputs the same".format(**report["preemption"])
    )
    return 0


def make_prompt(engine: OnnxEngine, rng: np.random.Generator, tokens: int) -> NDArray[np.int32]:
    """Random tokens, new ones each time so that no cache knows them."""
    return rng.integers(0, engine.config.vocab_size, tokens, dtype=np.int32)


def waste(engine: OnnxEngine, rng: np.random.Generator) -> dict[str, float]:
    """Memory of the cache against what the computed tokens take, with lengths far apart."""
    longest = min(engine.config.context_length, 2048) - 64
    lengths = np.geomspace(32, longest, SEQUENCES).astype(int)
    for length in rng.permutation(lengths):
        engine.add(Sequence(make_prompt(engine, rng, int(length)), SamplingParams(max_tokens=64)))
    while any(not sequence.output for sequence in engine.scheduler.running) or (
        engine.scheduler.waiting
    ):
        engine.step()
    tokens = sum(sequence.num_computed for sequence in engine.scheduler.running)
    used = tokens * engine.layout.block_bytes // BLOCK_TOKENS
    resident = engine.kv_cache_resident_bytes
    sequences = len(engine.scheduler.running)
    engine.drop_running()
    return {
        "sequences": sequences,
        "tokens": tokens,
        "used_bytes": used,
        "resident_bytes": resident,
        "waste": (resident - used) / resident,
    }


def prefix(engine: OnnxEngine, rng: np.random.Generator) -> dict[str, float]:
    """Time to the first token of two prompts that share all but their last tokens."""
    own = 20
    pairs = []
    for _ in range(ROUNDS + 1):
        shared = make_prompt(engine, rng, PREFIX_TOKENS)
        prompts = [np.concatenate([shared, make_prompt(engine, rng, own)]) for _ in range(2)]
        pairs.append([first_token_s(engine, prompt) for prompt in prompts])
    cold_s, warm_s = zip(*pairs[1:], strict=True)  # the first warms up
    return {
        "tokens": PREFIX_TOKENS + own,
        "own": own,
        "cold_ms": 1000 * statistics.median(cold_s),
        "warm_ms": 1000 * statistics.median(warm_s),
        "ratio": statistics.median(warm / cold for cold, warm in pairs[1:]),
        "rounds": ROUNDS,
    }


def first_token_s(engine: OnnxEngine, prompt: NDArray[np.int32]) -> float:
    """Seconds from a prompt's arrival to its first token, with nothing else to do."""
    start_s = time.perf_counter()
    engine.generate([prompt], SamplingParams(max_tokens=1))
    return time.perf_counter() - start_s


def preemption(folder: Path, rng: np.random.Generator) -> dict[str, float]:
    """The same sequences with room for all and with room for a third."""
    roomy = OnnxEngine(folder)
    params = SamplingParams(max_tokens=200, top_p=0.95, temperature=1.2, seed=7)
    prompts = [make_prompt(roomy, rng, 40) for _ in range(16)]
    blocks = len(prompts) * roomy.scheduler.pool.blocks_for(240) // 3
    tight = OnnxEngine(folder, kv_cache_bytes=blocks * roomy.layout.block_bytes)
    outputs = zip(roomy.generate(prompts, params), tight.generate(prompts, params), strict=True)
    return {
        "sequences": len(prompts),
        "preempted": tight.scheduler.num_preempted,
        "same": sum(one == other for one, other in outputs),
    }


if __name__ == "__main__":
    sys.exit(main())
