"""``make demo-score``: the demo checkpoint's exam, through the engine that serves it.

Builds an engine in a temporary folder and answers the held-out questions with it, as the quality
gate does. Needs no torch.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from build.demo.data import KINDS, held_out
from build.demo.score import Report, mark
from build.engine_folder import build_engine
from build.progress import ProgressLine
from build.quality.subject import Subject
from build.quality.suite import demo_suite
from python_backend.engine.engine_config import PRECISIONS, Precision

_CHECKPOINT = Path(__file__).parent / "checkpoint"

REQUIRED_ACCURACY = 0.95
REQUIRED_ACCURACY_OF_A_KIND = 0.85


def examine(checkpoint: Path, precision: Precision, questions_of_a_kind: int) -> Report:
    """Hold the exam over a checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        engine = Path(folder) / "engine"
        build_engine(checkpoint, engine, precision)
        answers = Subject(engine, ProgressLine(sys.stderr)).answers(demo_suite(questions_of_a_kind))
    return mark(held_out(questions_of_a_kind), answers.texts)


def main() -> int:
    """Hold the exam and print the marks; the exit code tells whether it was passed."""
    parser = argparse.ArgumentParser(prog="python -m build.demo.exam", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=_CHECKPOINT)
    parser.add_argument("--precision", choices=PRECISIONS["cpu"], default="fp32")
    parser.add_argument("--questions", type=int, default=120, help="of each kind")
    parser.add_argument("--failures", action="store_true", help="print what was answered wrongly")
    arguments = parser.parse_args()
    report = examine(arguments.checkpoint, arguments.precision, arguments.questions)
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
