"""What the text path costs: tokenizing, scanning, holding back, and its share of a server's CPU.

python -m benchmarks.text_path
python -m benchmarks.text_path --repository model_repository
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from clients import Client
from ops.triton import TritonServer
from python_backend.safety.policy import load_policies
from python_backend.safety.scanner import Scanner
from python_backend.text.tokenizer import TextTokenizer

ROOT = Path(__file__).resolve().parents[1]
CHECKPOINT = ROOT / "build" / "demo" / "checkpoint"
POLICIES = ROOT / "policies" / "safety.yaml"
STREAMS = 32
STEPS = ("preprocessing", "postprocessing")
_TICKS = os.sysconf("SC_CLK_TCK")


def ordinary_texts() -> list[str]:
    """Paragraphs of this repository's own documents."""
    paths = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    paragraphs = [part for path in paths for part in path.read_text("utf-8").split("\n\n")]
    chosen = [part for part in paragraphs if len(part) > 100 and part[0].isalpha()]
    return chosen[:: max(1, len(chosen) // 40)]


def tokenizing_ms(tokenizer: TextTokenizer, texts: list[str]) -> float:
    """Milliseconds to tokenize a prompt of 10,000 tokens, the fastest of 25."""
    text = " ".join(texts)
    ids = tokenizer.encode(text, add_special_tokens=False)
    text = (text * (1 + 10_000 // ids.size))[: int(len(text) / ids.size * 10_000)]
    times = []
    for _ in range(25):
        start = time.perf_counter()
        tokenizer.encode(text, add_special_tokens=False)
        times.append(time.perf_counter() - start)
    return min(times) * 1000


def scan(policy: str, pieces: list[list[str]]) -> str:
    """One line on what a policy costs, and what it holds back of ordinary text."""
    rules = load_policies(POLICIES).get(policy).output
    first: list[int] = []
    held: list[int] = []
    best_s = float("inf")
    for _ in range(3):
        start = time.process_time()
        for text in pieces:
            scanner = Scanner(rules)
            for piece in text:
                scanner.add(piece)
        best_s = min(best_s, time.process_time() - start)
    for text in pieces:
        scanner = Scanner(rules)
        left = False
        for count, piece in enumerate(text):
            if scanner.add(piece).text and not left:
                first.append(count)
                left = True
            held.append(scanner.held)
    count = sum(map(len, pieces))
    return (
        f"{policy}: {best_s / count * 1e6:.0f} µs a token; first text {statistics.median(first):g} "
        f"tokens later (median; mean {statistics.mean(first):.2f}); held back: median "
        f"{statistics.median(held):g} characters, most {max(held)}"
    )


def cpu_ticks(repository: Path) -> Counter[str]:
    """CPU ticks of a server's processes so far: Triton's own and each model's."""
    used: Counter[str] = Counter()
    for process in Path("/proc").iterdir():
        try:
            words = (process / "cmdline").read_bytes().decode(errors="replace")
            fields = (process / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if str(repository) in words and "tritonserver" in words:
            names = [*STEPS, "tensorrt_llm"] if "python_backend_stub" in words else []
            name = next((name for name in names if f"/{name}/" in words), "tritonserver")
            used[name] += int(fields[11]) + int(fields[12])
    return used


def share(repository: Path, requests: int, max_tokens: int) -> str:
    """One line on the two steps' share of the CPU time at 32 concurrent streams."""
    log = Path(tempfile.mkdtemp()) / "triton.log"
    with (
        TritonServer(repository, log=log) as server,
        Client(f"127.0.0.1:{server.ports.grpc}") as client,
        ThreadPoolExecutor(STREAMS) as pool,
    ):
        stream = client.stream
        list(stream("Warm up.", max_tokens=8))
        before, start = cpu_ticks(repository), time.monotonic()
        prompts = [f"Tell me about number {i}." for i in range(requests)]
        for _ in pool.map(
            lambda text: list(stream(text, max_tokens=max_tokens, end_id=-1)), prompts
        ):
            pass
        wall_s, used = time.monotonic() - start, cpu_ticks(repository) - before
    total, tokens = sum(used.values()), requests * max_tokens
    each = ", ".join(f"{name} {ticks / _TICKS:.1f} s" for name, ticks in used.most_common())
    return (
        f"{STREAMS} streams, {tokens} tokens in {wall_s:.0f} s: {each}; the two steps "
        f"{sum(used[name] for name in STEPS) / total:.1%}"
    )


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.text_path", description=__doc__)
    parser.add_argument("--repository", type=Path, help="measure the CPU share of a server too")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=64)
    arguments = parser.parse_args()
    if arguments.repository is not None:
        repository = arguments.repository.resolve()
        print(share(repository, arguments.requests, arguments.max_tokens))
        return
    tokenizer = TextTokenizer.load(CHECKPOINT)
    texts = ordinary_texts()
    print(f"10,000 tokens of prompt: {tokenizing_ms(tokenizer, texts):.1f} ms")
    pieces = [
        [tokenizer.vocabulary.text_of(i) for i in tokenizer.encode(text, False).tolist()]
        for text in texts
    ]
    for policy in ("standard", "strict"):
        print(scan(policy, pieces))


if __name__ == "__main__":
    main()
