"""What the text path costs: tokenizing, scanning, holding back, and its share of a server's CPU.

python -m benchmarks.text_path
python -m benchmarks.text_path --tokenizer .../tokenizer.json
python -m benchmarks.text_path --repository model_repository
"""

from __future__ import annotations

import argparse
import operator
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tokenizers import Tokenizer

from build.demo.data import held_out
from build.quality.suite import load_suite
from clients import Client
from ops.triton_process import TritonServer
from python_backend.safety.policy import load_policies
from python_backend.safety.scanner import RuleSet, Scanner
from python_backend.text.tokenizer import TextTokenizer

ROOT = Path(__file__).resolve().parents[1]
CHECKPOINT = ROOT / "build" / "demo" / "checkpoint"
POLICIES = ROOT / "policies" / "safety.yaml"
STREAMS = 32
STEPS = ("preprocessing", "postprocessing")
_TICKS = os.sysconf("SC_CLK_TCK")


def answers() -> list[str]:
    """What the demo model is asked for: its held-out questions' answers, contact cards left out."""
    examples = held_out(40)
    return [each.answer for each in examples if each.kind != "contact"]


def prose() -> list[str]:
    """Sentences of English prose."""
    paragraphs = [item.prompt + item.answer for item in load_suite("general").items]
    return [f"{sentence}." for each in paragraphs for sentence in each.rstrip(".").split(". ")]


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


def scanning(rules: RuleSet, pieces: list[list[str]]) -> str:
    """What scanning costs, and what is held back meanwhile."""
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
        for piece in text:
            scanner.add(piece)
            held.append(scanner.held)
    return (
        f"{best_s / sum(map(len, pieces)) * 1e6:.1f} µs of CPU a token; held back: median "
        f"{statistics.median(held):g} characters, at most {max(held)}"
    )


def delay(rules: RuleSet, pieces: list[list[str]]) -> str:
    """How many tokens later the first text of each answer leaves than without a policy."""
    delays = []
    for text in pieces:
        scanner = Scanner(rules)
        released = (i for i, piece in enumerate(text) if scanner.add(piece).text)
        delays.append(next(released, len(text)))
    return (
        f"first text {statistics.median(delays):g} tokens later (median; mean "
        f"{statistics.mean(delays):.2f}), of {len(delays)}"
    )


def first_text(url: str, questions: list[str]) -> str:
    """The same in time, at a server: each question under both policies, one after the other."""
    first_s: dict[str, list[float]] = {"none": [], "standard": []}
    token_s = []
    for question in questions:
        with Client(url) as client:  # the engine remembers a prompt: it knows all of them
            client.generate(question, max_tokens=1)
        for policy, times in first_s.items():
            arrivals, tokens = [], 0
            with Client(url, safety_policy=policy) as client:
                client.is_ready()
                start = time.perf_counter()
                for piece in client.stream(question, max_tokens=16, return_num_output_tokens=True):
                    tokens += piece.num_output_tokens or 0
                    if piece.text:
                        arrivals.append(time.perf_counter() - start)
            times.append(arrivals[0])
            if policy == "none" and tokens > 1:
                token_s.append((arrivals[-1] - arrivals[0]) / (tokens - 1))
    added_s = statistics.median(map(operator.sub, first_s["standard"], first_s["none"]))
    return (
        f"first text after {statistics.median(first_s['none']) * 1000:.1f} ms without a policy, "
        f"{added_s * 1000:+.1f} ms under standard; a token takes "
        f"{statistics.median(token_s) * 1000:.1f} ms (medians of {len(questions)} questions)"
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


def served(repository: Path, requests: int, max_tokens: int) -> Iterator[str]:
    """What is measured at a server of its own."""
    log = Path(tempfile.mkdtemp()) / "triton.log"
    with (
        TritonServer(repository, log=log) as server,
        Client(f"127.0.0.1:{server.ports.grpc}") as client,
        ThreadPoolExecutor(STREAMS) as pool,
    ):
        stream = client.stream
        list(stream("Warm up.", max_tokens=8))
        yield first_text(client.url, [each.question for each in held_out(3)])
        before, start = cpu_ticks(repository), time.monotonic()
        prompts = [f"Tell me about number {i}." for i in range(requests)]
        for _ in pool.map(
            lambda text: list(stream(text, max_tokens=max_tokens, end_id=-1)), prompts
        ):
            pass
        wall_s, used = time.monotonic() - start, cpu_ticks(repository) - before
    total, tokens = sum(used.values()), requests * max_tokens
    each = ", ".join(f"{name} {ticks / _TICKS:.1f} s" for name, ticks in used.most_common())
    yield (
        f"{STREAMS} streams, {tokens} tokens in {wall_s:.0f} s: {each}; the two steps "
        f"{sum(used[name] for name in STEPS) / total:.1%}"
    )


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.text_path", description=__doc__)
    parser.add_argument("--repository", type=Path, help="measure the CPU share of a server too")
    parser.add_argument("--tokenizer", type=Path, help="another tokenizer.json to measure with")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=64)
    arguments = parser.parse_args()
    if arguments.repository is not None:
        repository = arguments.repository.resolve()
        for line in served(repository, arguments.requests, arguments.max_tokens):
            print(line)
        return
    tokenizer = TextTokenizer.load(CHECKPOINT)
    print(f"10,000 tokens of prompt: {tokenizing_ms(tokenizer, prose()):.1f} ms")
    texts = {
        "the demo model's answers": split(tokenizer, answers()),
        "prose in its tokens": split(tokenizer, prose()),
    }
    if arguments.tokenizer is not None:
        other = TextTokenizer(Tokenizer.from_file(str(arguments.tokenizer)), {}, None)
        texts[f"prose in those of {arguments.tokenizer.name}"] = split(other, prose())
    for policy in ("standard", "strict"):
        rules = load_policies(POLICIES).get(policy).output
        for name, pieces in texts.items():
            print(f"{policy}, {name}: {scanning(rules, pieces)}; {delay(rules, pieces)}")


def split(tokenizer: TextTokenizer, texts: list[str]) -> list[list[str]]:
    """Texts token by token."""
    return [
        [tokenizer.vocabulary.text_of(i) for i in tokenizer.encode(text, False).tolist()]
        for text in texts
    ]


if __name__ == "__main__":
    main()
