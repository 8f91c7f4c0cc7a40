"""``make bench-engine``: the engine in process, on six workloads, in each precision.

A checkpoint of Qwen2.5-0.5B's shape with random weights stands for a real one. Precisions take
turns, and so do the libraries of kernels that ``--kernels`` names, so that a busy machine is unfair
to none; each figure is the median of the rounds. Every run checks that all tokens asked for were
generated.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.bench_checkpoint import make_checkpoint
from benchmarks.workloads import KV_CACHE_BYTES, MOST_CONCURRENT, WORKLOADS, Workload
from build.engine_folder import build_engine
from python_backend.engine.kernels import KERNELS
from python_backend.engine.onnx_engine import OnnxEngine
from python_backend.engine.sequence import SamplingParams, Sequence


def measure(engine: OnnxEngine, workload: Workload, rng: np.random.Generator) -> float:
    """Seconds that a workload takes, from its arrival to its last token."""
    params = SamplingParams(max_tokens=workload.output)
    sequences = [Sequence(prompt, params) for prompt in workload.prompts(rng)]
    start = time.perf_counter()
    for sequence in sequences:
        engine.add(sequence)
    while engine.has_work:
        engine.step()
    duration_s = time.perf_counter() - start
    if any(len(sequence.output) != workload.output for sequence in sequences):
        raise RuntimeError(f"{workload.name}: not all tokens were generated")
    return duration_s


def main() -> int:
    """Measure, print a table and write ``reports/engine.json``."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engine_throughput", description=__doc__
    )
    parser.add_argument("--folder", type=Path, default=Path(".cache/benchmarks"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precisions", nargs="+", default=["int4", "int8"])
    parser.add_argument(
        "--kernels", nargs="+", help="libraries of kernels, or `compiled`: the best by default"
    )
    parser.add_argument("--workloads", nargs="+", help="all by default")
    arguments = parser.parse_args()
    checkpoint = make_checkpoint(arguments.folder / "qwen2.5-0.5b")
    engines: dict[str, OnnxEngine] = {}
    for precision in arguments.precisions:
        folder = arguments.folder / precision / "1"
        build_engine(checkpoint, folder, precision)
        for kernels in arguments.kernels or [None]:
            if kernels is not None:
                os.environ[KERNELS] = kernels
            engines[" ".join(filter(None, [precision, kernels]))] = load_engine(folder)
    workloads = [each for each in WORKLOADS if each.name in (arguments.workloads or [each.name])]
    rng = np.random.default_rng(1)
    durations: dict[tuple[str, str], list[float]] = {}
    for round_ in range(arguments.rounds + 1):
        for workload in workloads:
            for name, engine in engines.items():
                duration_s = measure(engine, workload, rng)
                if round_:  # the first warms up
                    durations.setdefault((workload.name, name), []).append(duration_s)
                print(f"{workload.name:12} {name:5} {duration_s:8.3f} s", file=sys.stderr)
    report = _report(durations, workloads, list(engines))
    Path("reports").mkdir(exist_ok=True)
    Path("reports/engine.json").write_text(json.dumps(report, indent=2) + "\n")
    print(_table(report, list(engines)))
    return 0


def load_engine(folder: Path) -> OnnxEngine:
    """An engine with room for every workload, and for some prefixes that were seen before."""
    return OnnxEngine(folder, max_sequences=MOST_CONCURRENT, kv_cache_bytes=KV_CACHE_BYTES)


def _report(
    durations: dict[tuple[str, str], list[float]], workloads: list[Workload], names: list[str]
) -> dict[str, dict[str, float]]:
    """Output tokens a second; for the first token, milliseconds to it."""
    report: dict[str, dict[str, float]] = {}
    for workload in workloads:
        for name in names:
            seconds = statistics.median(durations[workload.name, name])
            figure = 1000 * seconds if workload.is_latency else workload.output_tokens / seconds
            report.setdefault(workload.name, {})[name] = round(figure, 1)
    return report


def _table(report: dict[str, dict[str, float]], engines: list[str]) -> str:
    head = ["workload", *engines, "unit"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, figures in report.items():
        unit = "ms" if name == "first token" else "output tokens/s"
        cells = [name, *(f"{figures[engine]:,.0f}" for engine in engines), unit]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
