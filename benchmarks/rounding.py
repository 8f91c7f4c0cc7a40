"""``python -m benchmarks.rounding``: what each precision and int4 method leaves of the demo model.

The graphs of each build are computed on held-out questions with their right answers, and their
logits compared with the float32 graphs': divergence, greedy choices, perplexity. GPTQ is calibrated
on training conversations.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from build.demo.data import Example, held_out, training_examples
from build.engine_folder import build_engine
from build.quantize import Int4Method
from python_backend.engine.engine_config import Precision
from python_backend.text.tokenizer import TextTokenizer
from tests.build.packed import PackedEngine

CHECKPOINT = Path(__file__).parents[1] / "build" / "demo" / "checkpoint"
BUILDS: tuple[tuple[Precision, Int4Method], ...] = (
    ("fp32", "rtn"),
    ("int8", "rtn"),
    ("int4", "rtn"),
    ("int4", "k_quant"),
    ("int4", "gptq"),
)
_QUESTIONS_OF_A_KIND = 60
_CONVERSATIONS = 400


def main() -> None:
    """Build, compute and print a table."""
    tokenizer = TextTokenizer.load(CHECKPOINT)
    answered = [_tokens(tokenizer, example) for example in held_out(_QUESTIONS_OF_A_KIND)]
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "calibration.txt"
        examples = islice(training_examples(99), _CONVERSATIONS)
        text.write_text("\n".join(_prompt(tokenizer, each) + each.answer for each in examples))
        expected: list[NDArray[np.float64]] = []
        for precision, method in BUILDS:
            engine = Path(folder) / f"{precision}-{method}"
            start = time.perf_counter()
            build_engine(CHECKPOINT, engine, precision, int4_method=method, calibration_text=text)
            seconds = time.perf_counter() - start
            found = list(_log_probs(engine, answered))
            expected = expected or found
            print(f"{precision} {method:<8} {_line(expected, found, answered)}, {seconds:.1f} s")


def _prompt(tokenizer: TextTokenizer, example: Example) -> str:
    assert tokenizer.chat_template is not None, "the demo checkpoint has a chat template"
    return tokenizer.chat_template.render([{"role": "user", "content": example.question}])


def _tokens(tokenizer: TextTokenizer, example: Example) -> tuple[list[int], list[int]]:
    """A question's tokens, and its answer's."""
    prompt = _prompt(tokenizer, example)
    question = tokenizer.encode(prompt, add_special_tokens=False).tolist()
    answer = tokenizer.encode(example.answer, add_special_tokens=False).tolist()
    return question, answer


def _log_probs(
    folder: Path, answered: list[tuple[list[int], list[int]]]
) -> Iterator[NDArray[np.float64]]:
    """Log probabilities before each token of each answer, ``[tokens, vocab]``."""
    engine = PackedEngine(folder)
    for number, (question, answer) in enumerate(answered):
        logits = engine.step([(number, [*question, *answer])], every_token=True).astype(np.float64)
        logits = logits[len(question) - 1 : -1]
        logits -= logits.max(axis=1, keepdims=True)
        yield logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def _line(
    expected: list[NDArray[np.float64]],
    found: list[NDArray[np.float64]],
    answered: list[tuple[list[int], list[int]]],
) -> str:
    ours, theirs = np.concatenate(found), np.concatenate(expected)
    chosen = np.concatenate([answer for _, answer in answered])
    divergence = (np.exp(theirs) * (theirs - ours)).sum(axis=1).mean()
    differs = (ours.argmax(axis=1) != theirs.argmax(axis=1)).mean()
    perplexity = np.exp(-ours[np.arange(len(ours)), chosen].mean())
    return (
        f"KL {divergence:.6f}, greedy differs {differs:.2%}, perplexity {perplexity:.4f}, "
        f"{len(ours)} tokens"
    )


if __name__ == "__main__":
    main()
