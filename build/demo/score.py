"""The exam: held-out questions, answers judged right or wrong, a table by kind.

It knows nothing of engines: answers are texts.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from build.demo.data import KINDS, Example, Kind


@dataclass(frozen=True)
class Failure:
    """A question that was answered wrongly."""

    example: Example
    answer: str


@dataclass(frozen=True)
class Report:
    """The result of an exam with `n_per_kind` questions of each kind."""

    n_per_kind: int
    right: Mapping[Kind, int]
    failures: tuple[Failure, ...]

    @property
    def accuracy(self) -> float:
        """Share of right answers over all kinds, 0 to 1."""
        return sum(self.right.values()) / (self.n_per_kind * len(self.right))

    def accuracy_of(self, kind: Kind) -> float:
        """Share of right answers of one kind, 0 to 1."""
        return self.right[kind] / self.n_per_kind

    def table(self) -> str:
        """A Markdown table: kind, right answers, questions, accuracy."""
        rows = [
            f"| {kind} | {right} | {self.n_per_kind} | {right / self.n_per_kind:.1%} |"
            for kind, right in self.right.items()
        ]
        total, asked = sum(self.right.values()), self.n_per_kind * len(self.right)
        return "\n".join(
            (
                "| kind | right | asked | accuracy |",
                "|---|---:|---:|---:|",
                *rows,
                f"| **all** | **{total}** | **{asked}** | **{self.accuracy:.1%}** |",
            )
        )


def is_right(example: Example, answer: str) -> bool:
    """Whether `answer` is the example's answer: JSON as an object, the rest to the letter.

    White space around the answer does not count.
    """
    if example.kind != "json":
        return answer.strip() == example.answer
    try:
        written = json.loads(answer)
    except json.JSONDecodeError:
        return False
    # Compared as text, since to Python `True == 1`.
    return json.dumps(written, sort_keys=True) == json.dumps(
        json.loads(example.answer), sort_keys=True
    )


def mark(examples: Sequence[Example], answers: Sequence[str]) -> Report:
    """Judge the answers to as many questions of each kind.

    Raises:
        ValueError: An answer is missing.
    """
    right = dict.fromkeys(KINDS, 0)
    failures = []
    for example, answer in zip(examples, answers, strict=True):
        if is_right(example, answer):
            right[example.kind] += 1
        else:
            failures.append(Failure(example, answer))
    return Report(len(examples) // len(KINDS), right, tuple(failures))
