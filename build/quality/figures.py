"""What the quality gate measures, and the bounds that a recipe sets.

Three figures say how far a quantized engine is from its checkpoint: the perplexity of answers that
the model did not choose, the share of greedy tokens that stay the same, and the share of questions
that are answered rightly.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Bounds(BaseModel):
    """How far from its checkpoint an engine may be.

    Attributes:
        max_perplexity_increase: Of the perplexity, as a share of the reference's.
        max_perplexity: The perplexity itself; catches an engine that is wrong in every precision.
        min_agreement: Share of greedy tokens that are the reference's own.
        max_accuracy_drop: Of the share of right answers, against the reference's.
        min_accuracy: The share of right answers itself.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_perplexity_increase: float = Field(default=0.05, ge=0)
    max_perplexity: float | None = Field(default=None, gt=1)
    min_agreement: float = Field(default=0.9, ge=0, le=1)
    max_accuracy_drop: float = Field(default=0.02, ge=0, le=1)
    min_accuracy: float | None = Field(default=None, ge=0, le=1)


class Figures(BaseModel):
    """What was measured of one engine.

    Attributes:
        perplexity: Of the answers, each token given all before it.
        accuracy: Share of questions answered rightly; None where there are none to mark.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    perplexity: float
    accuracy: float | None


class QualityReport(BaseModel):
    """The gate's verdict, for the manifest.

    Attributes:
        status: ``passed``, or ``off`` where a person turned the gate off.
        reason: That person's reason.
        suite: What was asked.
        tokens: Answer tokens that the perplexity is over.
        questions: Questions that the accuracy is over.
        engine: Figures of the engine.
        reference: Those of the checkpoint in its own precision.
        agreement: Share of greedy tokens that are the reference's own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    status: Literal["passed", "off"]
    reason: str | None = None
    suite: str | None = None
    tokens: int | None = None
    questions: int | None = None
    engine: Figures | None = None
    reference: Figures | None = None
    agreement: float | None = None


def violations(report: QualityReport, bounds: Bounds) -> list[str]:
    """What a report has beyond the bounds, in words; empty where it passes."""
    engine, reference = report.engine, report.reference
    if engine is None or reference is None or report.agreement is None:
        raise ValueError("only what was measured can be judged")
    found = []
    increase = engine.perplexity / reference.perplexity - 1
    # Written so that a perplexity that is not a number is a violation.
    if not increase <= bounds.max_perplexity_increase + 1e-9:
        found.append(
            f"perplexity {engine.perplexity:.4g} is {increase:.1%} above the reference's "
            f"{reference.perplexity:.4g} (max_perplexity_increase: "
            f"{bounds.max_perplexity_increase:.1%})"
        )
    if bounds.max_perplexity is not None and not engine.perplexity <= bounds.max_perplexity:
        found.append(
            f"perplexity {engine.perplexity:.4g} (max_perplexity: {bounds.max_perplexity:g})"
        )
    if not report.agreement >= bounds.min_agreement:
        found.append(
            f"greedy agreement {report.agreement:.1%} (min_agreement: {bounds.min_agreement:.1%})"
        )
    if engine.accuracy is not None and reference.accuracy is not None:
        if reference.accuracy - engine.accuracy > bounds.max_accuracy_drop + 1e-9:
            found.append(
                f"accuracy {engine.accuracy:.1%} against the reference's {reference.accuracy:.1%} "
                f"(max_accuracy_drop: {bounds.max_accuracy_drop:.1%})"
            )
        if bounds.min_accuracy is not None and engine.accuracy < bounds.min_accuracy:
            found.append(
                f"accuracy {engine.accuracy:.1%} (min_accuracy: {bounds.min_accuracy:.1%})"
            )
    return found
