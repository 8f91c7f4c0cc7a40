"""How one answer is to be read: what preprocessing tells postprocessing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from python_backend.tools.thinking import Marks


@dataclass(frozen=True)
class Reading:
    """How an answer is read.

    Attributes:
        format: In which format it calls functions; empty where it calls none.
        functions: Of each function the types of its parameters that aren't texts.
        marks: What stands around its thinking; None where it doesn't think.
        begun: Whether the prompt ends within thinking.
        kept: Special tokens that the text keeps for whoever reads it.
    """

    format: str = ""
    functions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    marks: Marks | None = None
    begun: bool = False
    kept: tuple[int, ...] = ()

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Reading:
        """Read it back."""
        marks = values["marks"]
        return cls(
            **{**values, "marks": marks and Marks(*marks), "kept": tuple(values["kept"])},
        )
