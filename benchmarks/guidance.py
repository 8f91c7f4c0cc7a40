"""``make bench-guidance``: what guided decoding takes, and whether it keeps to its guides.

With ``--schemas FILE`` every schema of a file is compiled, and each of its instances is walked as a
text of tokens: what a mask takes, whether valid instances may be written, and invalid ones not.
The file is JSON lines of ``name``, ``schema`` and ``tests`` (``valid`` and ``data``), gzipped or
not, as JSONSchemaBench has them.

Without it, streams of Qwen2.5-0.5B's shape (random weights, int8) are generated free and guided in
turns, each as long as the other: guided text needs no end, so that all have the same tokens.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from benchmarks.bench_checkpoint import CONFIG, make_checkpoint
from build.engine_folder import build_engine
from contract.errors import InvalidRequestError
from contract.guides import Guide
from python_backend.engine.onnx_engine import OnnxEngine
from python_backend.engine.sequence import SamplingParams, Sequence
from python_backend.guidance.grammars import Grammars

ENDLESS = Guide("json_schema", '{"type": "array", "items": {"type": "string"}, "minItems": 1000}')
STREAMS, TOKENS, PROMPT_TOKENS = 32, 64, 64


def schemas(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def may_be_written(
    grammars: Grammars, guide: Guide, tokens: list[int], masks_us: list[float]
) -> bool:
    """Whether a guide allows a text and its end after it; the masks' times are added."""
    way = grammars.begin(grammars.compile(guide), frozenset(grammars.end_ids))
    row = np.zeros(grammars.vocab_size, dtype=np.float32)
    for place, token in enumerate([*tokens, grammars.end_ids[0]]):
        if way.is_complete(tokens[:place]):
            return place == len(tokens)
        start = time.perf_counter()
        way.prepare(tokens[:place])
        masks_us.append((time.perf_counter() - start) * 1e6)
        row[:] = 0
        way.shape(row, tokens[:place])
        if way.failure is not None or row[token] != 0:
            return False
    return True


def walk(path: Path, grammars: Grammars, tokenizer: Tokenizer) -> dict[str, Any]:
    """All schemas of a file."""
    refused: Counter[str] = Counter()
    compile_ms: list[float] = []
    masks_us: list[float] = []
    judged: Counter[tuple[bool, bool]] = Counter()
    wrong = []
    for line in schemas(path):
        guide = Guide("json_schema", json.dumps(line["schema"]))
        start = time.perf_counter()
        try:
            grammars.compile(guide)
        except InvalidRequestError as error:
            refused[error.message.partition(": ")[2].partition(":")[0][:60]] += 1
            continue
        finally:
            compile_ms.append((time.perf_counter() - start) * 1e3)
        for test in line["tests"]:
            text = json.dumps(test["data"], ensure_ascii=False)
            tokens = tokenizer.encode(text, add_special_tokens=False).ids
            found = may_be_written(grammars, guide, tokens, masks_us)
            judged[test["valid"], found] += 1
            if found != test["valid"]:
                wrong.append((line["name"], test["valid"], text[:200]))
    return {
        "schemas": len(compile_ms),
        "compiled": len(compile_ms) - refused.total(),
        "refused": dict(refused.most_common()),
        "compile_ms": quantiles(compile_ms),
        "mask_us": quantiles(masks_us),
        "masks": len(masks_us),
        "valid": judged[True, True] + judged[True, False],
        "valid accepted": judged[True, True],
        "invalid": judged[False, True] + judged[False, False],
        "invalid accepted": judged[False, True],
        "wrong": wrong,
    }


def quantiles(values: list[float]) -> dict[str, float]:
    """Median, 99 % and most."""
    ordered = sorted(values)
    at = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {
        name: round(ordered[min(int(len(ordered) * q), len(ordered) - 1)], 2)
        for name, q in at.items()
    }


def generate(engine: OnnxEngine, grammars: Grammars, guide: Guide | None, seed: int) -> float:
    """Tokens a second of many streams, prompts apart."""
    rng = np.random.default_rng(seed)
    params = SamplingParams(max_tokens=TOKENS, temperature=1, top_k=50, seed=seed)
    sequences = []
    for _ in range(STREAMS):
        prompt = rng.integers(10, CONFIG["vocab_size"], PROMPT_TOKENS, dtype=np.int32)
        way = None
        if guide is not None:
            way = grammars.begin(grammars.compile(guide), params.end_ids)
        sequences.append(Sequence(prompt, params, guide=way))
    for sequence in sequences:
        engine.add(sequence)
    while any(not sequence.output for sequence in sequences):
        engine.step()
    before = sum(len(sequence.output) for sequence in sequences)
    start = time.perf_counter()
    while engine.has_work:
        engine.step()
    elapsed_s = time.perf_counter() - start
    failures = [each.failure for each in sequences if each.failure is not None]
    if failures:
        raise RuntimeError(f"a guided stream failed: {failures[0]}")
    return (sum(len(sequence.output) for sequence in sequences) - before) / elapsed_s


def main() -> int:
    """Measure, print and write ``reports/guidance.json``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guidance", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(".cache/benchmarks"))
    parser.add_argument("--schemas", type=Path, help="schemas with their instances")
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer.json to write them with")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    report: dict[str, Any]
    if arguments.schemas:
        if not arguments.tokenizer:
            parser.error("--schemas needs --tokenizer")
        tokenizer = Tokenizer.from_file(str(arguments.tokenizer))
        size = tokenizer.get_vocab_size()
        grammars = Grammars(arguments.tokenizer, size, [size - 1])
        report = walk(arguments.schemas, grammars, tokenizer)
        for name, value in report.items():
            if name != "wrong":
                print(f"{name}: {value}")
    else:
        engine_folder = arguments.folder / "int8" / "1"
        build_engine(make_checkpoint(arguments.folder / "qwen2.5-0.5b"), engine_folder, "int8")
        engine = OnnxEngine(engine_folder, max_sequences=STREAMS)
        grammars = Grammars(
            engine_folder / "tokenizer.json", engine.config.vocab_size, engine.end_token_ids
        )
        generate(engine, grammars, ENDLESS, 0)
        rates: dict[str, list[float]] = {"free": [], "guided": []}
        for turn in range(arguments.rounds):
            rates["free"].append(generate(engine, grammars, None, turn))
            rates["guided"].append(generate(engine, grammars, ENDLESS, turn))
        medians = {name: statistics.median(values) for name, values in rates.items()}
        report = {name: round(value, 1) for name, value in medians.items()}
        report["ratio"] = round(medians["guided"] / medians["free"], 3)
        print(f"{STREAMS} streams, tokens a second: {report}")
    Path("reports").mkdir(exist_ok=True)
    Path("reports/guidance.json").write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
