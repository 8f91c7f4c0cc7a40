"""``make demo-score``: the demo checkpoint's exam, through the engine that serves it.

Builds an engine in a temporary folder and answers the held-out questions with it, greedily, as a
client without options would be answered. Needs no torch.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from build.demo.data import KINDS
from build.demo.score import score
from build.engine import build_engine
from python_backend.engine.config import Precision
from python_backend.engine.engine import Engine
from python_backend.engine.sequence import SamplingParams
from python_backend.text.detokenizer import Detokenizer
from python_backend.text.tokenizer import TextTokenizer

_CHECKPOINT = Path(__file__).parent / "checkpoint"
_MAX_TOKENS = 900

REQUIRED_ACCURACY = 0.95
REQUIRED_ACCURACY_OF_A_KIND = 0.85


class Candidate:
    """A checkpoint that answers questions through its engine."""

    def __init__(self, checkpoint: Path, precision: Precision) -> None:
        with tempfile.TemporaryDirectory() as folder:
            engine = Path(folder) / "engine"
            build_engine(checkpoint, engine, precision)
            self._engine = Engine(engine)
            self._tokenizer = TextTokenizer.load(engine)
        self._params = SamplingParams(
            max_tokens=_MAX_TOKENS, end_ids=frozenset(self._engine.config.end_token_ids)
        )

    def answer(self, questions: list[str]) -> list[str]:
        """The answers to user questions, one for each."""
        template = self._tokenizer.chat_template
        assert template is not None, "the demo checkpoint has a chat template"
        prompts = [
            self._tokenizer.encode(
                template.render([{"role": "user", "content": question}]), add_special_tokens=False
            )
            for question in questions
        ]
        outputs = self._engine.generate(prompts, self._params)
        vocabulary = self._tokenizer.vocabulary
        return [Detokenizer(vocabulary).add(output, final=True) for output in outputs]


def main() -> int:
    """Hold the exam and print the marks; the exit code tells whether it was passed."""
    parser = argparse.ArgumentParser(prog="python -m build.demo.exam", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=_CHECKPOINT)
    parser.add_argument("--precision", choices=["fp32", "int8", "int4"], default="fp32")
    parser.add_argument("--questions", type=int, default=120, help="of each kind")
    parser.add_argument("--failures", action="store_true", help="print what was answered wrongly")
    arguments = parser.parse_args()
    candidate = Candidate(arguments.checkpoint, arguments.precision)
    report = score(candidate.answer, arguments.questions)
    print(report.table())
    if arguments.failures:
        for failure in report.failures:
            print(f"\n{failure.example.kind}: {failure.example.question}")
            print(f"  right:  {failure.example.answer}")
            print(f"  answer: {failure.answer}")
    passed = report.accuracy >= REQUIRED_ACCURACY and all(
        report.accuracy_of(kind) >= REQUIRED_ACCURACY_OF_A_KIND for kind in KINDS
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
