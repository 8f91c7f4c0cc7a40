"""The exam: held-out questions, answers judged right or wrong, a table by kind.

It knows nothing of engines. Whatever can answer a list of questions can sit it.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from build.demo.data import KINDS, Example, Kind, held_out


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


def score(generate: Callable[[list[str]], list[str]], n_per_kind: int) -> Report:
    """Examine `generate`, which answers a list of user questions with a list of texts.

    Raises:
        ValueError: `n_per_kind` is more than a kind has, or an answer is missing.
    """
    examples = held_out(n_per_kind)
    answers = generate([example.question for example in examples])
    right = dict.fromkeys(KINDS, 0)
    failures = []
    for example, answer in zip(examples, answers, strict=True):
        if is_right(example, answer):
            right[example.kind] += 1
        else:
            failures.append(Failure(example, answer))
    return Report(n_per_kind, right, tuple(failures))
