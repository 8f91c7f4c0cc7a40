"""What a row of a table of parameters says, and what follows from it.

A table is a dataclass whose fields are annotated with their rows, so that a type checker sees plain
fields: see `contract.parameters`.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar, get_type_hints

from contract.errors import InvalidRequestError
from contract.tensors import Tensor, Value

_T = TypeVar("_T")


@dataclass(frozen=True)
class Bounds:
    """Between what a number must lie; None is without a bound.

    Attributes:
        least: The least that it may be.
        above: What it must be above.
        most: The most that it may be.
    """

    least: float | None = None
    above: float | None = None
    most: float | None = None

    def hold(self, value: float) -> bool:
        """Whether a number lies between them; NaN lies nowhere."""
        return (
            (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
        )

    def __str__(self) -> str:
        if self.above is not None:
            return f"above {self.above:g}"
        if self.most is not None:
            return f"between {self.least:g} and {self.most:g}"
        return "0 or more" if self.least == 0 else f"at least {self.least:g}"


ANY = Bounds()


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A row of the table.

    Attributes:
        meaning: What it does, for whoever sets it.
        tensor: The ensemble's input that carries it.
        engine: The engine's, where the engine samples by the value as it is: `SamplingParams` has a
            field of the row's name. None where it is read in a way of its own, or not there at all.
        bounds: What the engine takes. Beside them, a number must be finite.
        default: What holds in the engine where nobody says.
        openai: What it is called in OpenAI's API, or by those who extend it; None: not offered so.
        asked: What of it is offered there, where the value is taken as it is; None where it takes
            another form there.
        nothing: The value that asks for nothing there and is not sent on.
        weights: The input of the values, where the tensor's are the keys of a mapping.
        json: It travels as a text of JSON.
        name: The row's own name, by which `GenerationParameters` and the Python client know it.
    """

    meaning: str
    tensor: Tensor
    engine: Tensor | None = None
    bounds: Bounds = ANY
    default: float | None = None
    openai: str | None = None
    asked: Bounds | None = None
    nothing: float | None = None
    weights: Tensor | None = None
    json: bool = False
    name: str = ""

    @property
    def many(self) -> bool:
        """Whether a value is several texts or numbers."""
        return -1 in self.tensor.dims and not self.weights

    @property
    def texts(self) -> bool:
        """Whether a value is several texts."""
        return self.many and self.tensor.data_type == "STRING"

    def check(self, value: float) -> None:
        """Check a value before the engine samples by it.

        Raises:
            InvalidRequestError: It is out of bounds; the message names it and them.
        """
        if not self.bounds.hold(value):
            bound = str(self.bounds)
        elif not math.isfinite(value):
            bound = "a finite number"
        else:
            return
        shown = f"{value:g}" if isinstance(value, float) else str(value)
        raise InvalidRequestError(f"{self.name} is {shown}; it must be {bound}", self.name)

    def inputs(self, value: Any) -> dict[str, tuple[Value, ...]]:
        """The inputs that carry a value; none where it is None or an empty collection."""
        if value is None:
            return {}
        if self.json:
            return {self.tensor.name: (json.dumps(value, ensure_ascii=False),)} if value else {}
        if self.weights is not None:
            keys, values = tuple(value), tuple(value.values())
            return {self.tensor.name: keys, self.weights.name: values} if value else {}
        if self.many:
            return {self.tensor.name: tuple(value)} if value else {}
        return {self.tensor.name: (value,)}


def rows_of(table: type) -> dict[str, Parameter]:
    """The rows of a table by their names, in order."""
    hints = get_type_hints(table, include_extras=True)
    return {
        each.name: replace(hints[each.name].__metadata__[0], name=each.name)
        for each in fields(table)
    }


def described(table: type[_T]) -> type[_T]:
    """Write what the rows mean into the class's docstring, where a reader looks for it."""
    rows = "\n".join(f"    {row.name}: {row.meaning}" for row in rows_of(table).values())
    table.__doc__ = f"{table.__doc__}\n\nAttributes:\n{rows}\n"
    return table
