"""The gate: measure an engine and its checkpoint, compare, let pass or refuse.

The reference is the checkpoint in its own precision: an fp32 engine holds every fp16 and bf16
weight exactly. What it says is remembered by the checkpoint's digest, so further precisions of the
same checkpoint don't compute it again.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from build.build_errors import QualityError
from build.engine_folder import build_engine
from build.progress import Progress, silent
from build.quality.figures import Bounds, Figures, QualityReport, violations
from build.quality.subject import Subject
from build.quality.suite import Suite
from python_backend.engine.engine_config import EngineConfig

Say = Callable[[str], None]


@dataclass(frozen=True)
class Measured:
    """Of one engine.

    Attributes:
        perplexity: Of the suite's answers.
        accuracy: Share of right answers, or None.
        tokens: Answer tokens that the perplexity is over.
        answers: What it said, as tokens.
        tokens_per_s: Of its output, batched.
    """

    perplexity: float
    accuracy: float | None
    tokens: int
    answers: list[list[int]]
    tokens_per_s: float

    @property
    def figures(self) -> Figures:
        """What the report shows, rounded to what means something."""
        accuracy = None if self.accuracy is None else round(self.accuracy, 6)
        return Figures(perplexity=round(self.perplexity, 6), accuracy=accuracy)


def measure(subject: Subject, suite: Suite) -> Measured:
    """Put a suite to an engine."""
    log_probs = subject.log_probs(suite)
    answers = subject.answers(suite)
    marks = [
        item.is_right(text)
        for item, text in zip(suite.items, answers.texts, strict=True)
        if item.is_right is not None
    ]
    return Measured(
        perplexity=math.exp(-sum(log_probs) / len(log_probs)),
        accuracy=sum(marks) / len(marks) if marks else None,
        tokens=len(log_probs),
        answers=answers.tokens,
        tokens_per_s=answers.tokens_per_s,
    )


def examine(
    engine: Path,
    checkpoint: Path,
    suite: Suite,
    bounds: Bounds,
    remembered: Path,
    say: Say,
    progress: Progress = silent,
) -> tuple[QualityReport, float]:
    """Measure an engine against its checkpoint.

    The two are in memory one after the other: a reference in float32 alone is twice as large as a
    checkpoint in 16 bits.

    Args:
        engine: The engine folder.
        checkpoint: What it was built from.
        suite: What to ask.
        bounds: How far it may be from the checkpoint.
        remembered: A file for the reference's figures; read where it is there.
        say: Told what is being done.
        progress: Told how far it is.

    Returns:
        The report, and the engine's output tokens a second.

    Raises:
        QualityError: It is beyond a bound; the message has every one.
    """
    config = EngineConfig.load(engine)
    reference = None
    if (config.precision, config.kv_cache_dtype) != ("fp32", "float32"):
        reference = _reference(checkpoint, config.context_length, suite, remembered, say, progress)
    say(f"quality: {len(suite.items)} prompts of the suite {suite.name}, {config.precision}")
    subject = Subject(engine, progress)
    own = measure(subject, suite)
    reference = reference or own
    agreement = subject.agreement(suite, reference.answers)
    report = QualityReport(
        status="passed",
        suite=suite.name,
        tokens=own.tokens,
        questions=suite.marked or None,
        engine=own.figures,
        reference=reference.figures,
        agreement=round(agreement, 6),
    )
    wrong = violations(report, bounds)
    if wrong:
        raise QualityError("the quality gate refuses the engine: " + "; ".join(wrong))
    return report, own.tokens_per_s


def _reference(
    checkpoint: Path,
    context_length: int,
    suite: Suite,
    remembered: Path,
    say: Say,
    progress: Progress,
) -> Measured:
    if remembered.exists():
        return Measured(**json.loads(remembered.read_bytes()))
    say("quality: the checkpoint in its own precision")
    remembered.parent.mkdir(parents=True, exist_ok=True)
    # On the disk of the build, which has room for an engine, rather than in a /tmp of memory.
    with tempfile.TemporaryDirectory(dir=remembered.parent) as folder:
        engine = Path(folder) / "1"
        build_engine(checkpoint, engine, "fp32", context_length, progress=progress)
        measured = measure(Subject(engine, progress), suite)
    temporary = remembered.with_name(f"{remembered.name}.new")
    temporary.write_text(json.dumps(asdict(measured)), encoding="utf-8")
    temporary.replace(remembered)
    return measured
