"""What Triton's model configuration says of tensors, models and the steps of an ensemble."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

Value = str | int | float | bool
"""One element of a tensor, as Python has it."""


@dataclass(frozen=True)
class Tensor:
    """One input or output of a model, as Triton's model configuration describes it.

    Attributes:
        name: The tensor's name.
        data_type: Triton's type without the ``TYPE_`` prefix, such as ``INT32`` or ``STRING``.
        dims: Shape without the batch dimension; -1 is any length.
        optional: Whether a request may leave the input out.
        scalar: One value a request: Triton hands it to the model as ``[batch]``.
        ragged: Requests with different shapes may share a batch.
    """

    name: str
    data_type: str
    dims: tuple[int, ...] = (1,)
    optional: bool = False
    scalar: bool = False
    ragged: bool = False


def optional(name: str, data_type: str, *dims: int, ragged: bool = False) -> Tensor:
    """An input that a request may leave out."""
    return Tensor(name, data_type, dims or (1,), optional=True, ragged=ragged)


def scalar(name: str, data_type: str, optional: bool = True) -> Tensor:
    """An input with one value a request."""
    return Tensor(name, data_type, optional=optional, scalar=True)


class TensorSet:
    """Tensors as the attributes of a class, so that code names one without spelling it.

    An attribute may also be a tuple of tensors, for those that nobody names. A set that extends
    another inherits from it: its own come after the other's.
    """

    @classmethod
    def all(cls) -> tuple[Tensor, ...]:
        """The tensors in the order of their definition."""
        return tuple(tensor for kind in reversed(cls.__mro__) for tensor in _of(kind))

    @classmethod
    def own(cls) -> tuple[Tensor, ...]:
        """Those that the set adds to the ones that it inherits."""
        return tuple(_of(cls))


def _of(kind: type) -> Iterator[Tensor]:
    for value in vars(kind).values():
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple):
            yield from (each for each in value if isinstance(each, Tensor))


@dataclass(frozen=True)
class Model:
    """The tensors of one model."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return tuple(tensor.name for tensor in self.inputs)

    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs, in order."""
        return tuple(tensor.name for tensor in self.outputs)

    def without(self, names: frozenset[str]) -> Model:
        """The model without some of its tensors."""
        return Model(
            self.name,
            tuple(each for each in self.inputs if each.name not in names),
            tuple(each for each in self.outputs if each.name not in names),
        )


@dataclass(frozen=True)
class Step:
    """One step of the ensemble.

    Attributes:
        model: The step's model.
        input_map: The model's input to the ensemble tensor that feeds it.
        output_map: The model's output to the ensemble tensor that it makes.
    """

    model: str
    input_map: dict[str, str]
    output_map: dict[str, str]
