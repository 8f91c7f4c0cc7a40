"""What an engine is asked: prompts, each with an answer that no model was trained on.

One list serves all three measures: the perplexity is that of the answers, the agreement is over
what a model says to the prompts, and where an answer can be right or wrong it is marked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from build.build_errors import BuildError

_TEXT = Path(__file__).parent / "held_out.txt"
_LONGEST_ANSWER = 1024


@dataclass(frozen=True)
class Item:
    """A prompt and its answer.

    Attributes:
        prompt: A user's question, or the beginning of a text.
        answer: What follows.
        is_right: Whether another answer is right as well; None where nothing is to be marked.
    """

    prompt: str
    answer: str
    is_right: Callable[[str], bool] | None = None


@dataclass(frozen=True)
class Suite:
    """Items of one kind.

    Attributes:
        name: For the report.
        items: The items.
        chat: Whether prompts are questions, to be wrapped in the chat template.
        max_tokens: Most tokens that are generated, where the answer itself is longer.
    """

    name: str
    items: tuple[Item, ...]
    chat: bool
    max_tokens: int

    @property
    def digest(self) -> str:
        """SHA-256 of all that is asked and how, in hexadecimal."""
        asked = [self.chat, self.max_tokens, [(item.prompt, item.answer) for item in self.items]]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()

    @property
    def marked(self) -> int:
        """How many items can be right or wrong."""
        return sum(item.is_right is not None for item in self.items)


def load_suite(suite: str | Path) -> Suite:
    """A suite by name or file.

    Args:
        suite: ``general`` (English prose, for any model), ``demo`` (the demo model's exam), or a
            file of JSON lines with a ``question`` and its ``answer``.

    Raises:
        BuildError: There is no such file, or a line has something else.
    """
    if isinstance(suite, Path):
        return _from_file(suite)
    return {"general": _general, "demo": demo_suite}[suite]()


def _general() -> Suite:
    """Each paragraph is continued from its first sentence."""
    items = []
    for paragraph in _TEXT.read_text(encoding="utf-8").split("\n\n"):
        flat = " ".join(paragraph.split())
        first, _, rest = flat.partition(". ")
        items.append(Item(f"{first}.", f" {rest}"))
    return Suite("general", tuple(items), chat=False, max_tokens=64)


def demo_suite(questions_of_a_kind: int = 12) -> Suite:
    """The demo model's exam, on so many held-out questions of each kind."""
    from build.demo.data import Example, held_out
    from build.demo.score import is_right

    def item(example: Example) -> Item:
        return Item(example.question, example.answer, lambda answer: is_right(example, answer))

    examples = held_out(questions_of_a_kind)
    return Suite("demo", tuple(map(item, examples)), chat=True, max_tokens=_LONGEST_ANSWER)


def _from_file(path: Path) -> Suite:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise BuildError(f"the quality suite {path} cannot be read: {error.strerror}") from None
    items = tuple(_read_item(path, index, line) for index, line in enumerate(lines, 1) if line)
    if not items:
        raise BuildError(f"the quality suite {path} is empty")
    return Suite(path.name, items, chat=True, max_tokens=_LONGEST_ANSWER)


def _read_item(path: Path, number: int, line: str) -> Item:
    try:
        content: dict[str, Any] = json.loads(line)
        question, answer = content["question"], content["answer"]
        if not (isinstance(question, str) and isinstance(answer, str) and answer):
            raise ValueError("question and answer are texts")
    except (ValueError, TypeError, LookupError) as error:
        raise BuildError(
            f"{path}:{number} is not a JSON object with a question and an answer: {error}"
        ) from None
    return Item(question, answer, lambda other: other.strip() == answer.strip())
