"""Inputs of products that round well: what stands out in them moves into the weights.

An int8 product rounds each token's inputs by their largest magnitude, so a channel that is always
a hundred times larger leaves the others few levels. Behind a norm that channel can be made smaller
for nothing: the norm's weight is divided by a factor and the columns of the matrices behind it are
multiplied by it. In exact arithmetic nothing changes. It is SmoothQuant's migration (Xiao et al.
2023) with alpha 1/2, from what the inputs are on real text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from build.activations import LARGEST, ProductInputs
from build.calibration import even_factors
from build.decoder import DecoderSpec
from build.weight_tensors import Tensors
from python_backend.engine.layers import GatedFeedForward, GroupedAttention, Norm, Product, products

Factors = dict[str, NDArray[np.float32]]


class SmoothedTensors:
    """Tensors of which some are divided, and what they are multiplied with the more.

    Args:
        tensors: As the checkpoint has them.
        norms: What a norm's weight is divided by, float32 ``[columns]``, by its name.
        matrices: What a matrix's columns are multiplied by, by its name.
        norm_offset: Added to a norm's weight before it is used.
    """

    def __init__(
        self, tensors: Tensors, norms: Factors, matrices: Factors, norm_offset: float
    ) -> None:
        self._tensors = tensors
        self._norms = norms
        self._matrices = matrices
        self._offset = np.float32(norm_offset)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._tensors.shape(name)

    def dtype(self, name: str) -> np.dtype[Any]:
        changed = name in self._norms or name in self._matrices
        return np.dtype(np.float32) if changed else self._tensors.dtype(name)

    def tensor(self, name: str) -> NDArray[Any]:
        if name in self._norms:
            weight = self._tensors.tensor(name).astype(np.float32) + self._offset
            return weight / self._norms[name] - self._offset
        return self._multiplied(name, self._tensors.tensor(name))

    def blocks(self, name: str) -> Iterator[NDArray[Any]]:
        for block in self._tensors.blocks(name):
            yield self._multiplied(name, block)

    def _multiplied(self, name: str, rows: NDArray[Any]) -> NDArray[Any]:
        factors = self._matrices.get(name)
        return rows if factors is None else rows.astype(np.float32) * factors


def smoothed(
    spec: DecoderSpec,
    tensors: Tensors,
    samples: Sequence[NDArray[np.int64]],
    rotary_start: int = 0,
) -> SmoothedTensors:
    """A decoder's tensors with even inputs of the products that follow a norm.

    Args:
        spec: The decoder.
        tensors: Its weights.
        samples: Token ids of text that resembles what will be read, int64 ``[tokens]`` each.
        rotary_start: The row of the rotary embedding's table that their first position has.
    """
    inputs = ProductInputs(spec, tensors, samples, rotary_start, LARGEST)
    largest = dict[str, NDArray[np.float32]]()
    for _ in range(len(spec.layers) + 1):
        largest |= inputs.next_segment()
    norms, matrices = Factors(), Factors()
    for norm, parts in _behind_norms(spec):
        names = [name for part in parts for name in part.weights]
        factors = even_factors(_columns(tensors, names), largest[parts[0].weights[0]])
        factors /= np.exp(np.log(factors).mean())  # around 1, so that weights keep their size
        norms[norm.weight] = factors
        matrices |= dict.fromkeys(names, factors)
    return SmoothedTensors(tensors, norms, matrices, spec.norm_offset)


def _behind_norms(spec: DecoderSpec) -> Iterator[tuple[Norm, list[Product]]]:
    """Each norm of the layers, and the products that take nothing else than what it gives."""
    for layer in spec.layers:
        for part in (layer.attention, layer.feed_forward):
            if isinstance(part, GroupedAttention):
                yield part.norm, list(products(part.qkv))
            elif isinstance(part, GatedFeedForward):
                yield part.norm, list(products(part.gate_up))


def _columns(tensors: Tensors, names: Sequence[str]) -> NDArray[np.float32]:
    """The largest magnitude in each column of some matrices, float32 ``[columns]``."""
    found = [np.abs(block).max(axis=0) for name in names for block in tensors.blocks(name)]
    largest: NDArray[np.float32] = np.max(found, axis=0).astype(np.float32)
    return largest
