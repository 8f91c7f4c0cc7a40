"""The rotary embedding, whatever stretches it: its settings, and its cosines and sines."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from build.build_errors import CheckpointError
from build.model_config import ModelConfig


class RotaryScaling(Protocol):
    """A way to stretch the rotary embedding beyond the context it was trained with.

    Attributes:
        magnitude: Multiplies cosines and sines.
    """

    @property
    def magnitude(self) -> float: ...

    def scale(self, inv_freq: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scale inverse frequencies, ``[rotary_dim / 2]``."""


@dataclass(frozen=True)
class Llama3Scaling:
    """Llama 3.1's stretching of the rotary embedding beyond its original context.

    Frequencies whose wavelength exceeds ``original_context / low_freq_factor`` are divided by
    ``factor``, those below ``original_context / high_freq_factor`` are kept, and those between
    are interpolated.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int
    magnitude: float = 1.0

    def scale(self, inv_freq: NDArray[np.float64]) -> NDArray[np.float64]:
        turns = self.original_context * inv_freq / (2 * math.pi)
        kept = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        kept = np.clip(kept, 0.0, 1.0)
        return inv_freq * (kept + (1.0 - kept) / self.factor)


@dataclass(frozen=True)
class LongropeScaling:
    """LongRoPE (arXiv:2402.13753): each frequency divided by a factor that was searched for it.

    Attributes:
        factors: One for each frequency, ``[rotary_dim / 2]``.
        magnitude: Multiplies cosines and sines, and so its square the attention's scores.
    """

    factors: tuple[float, ...]
    magnitude: float

    def scale(self, inv_freq: NDArray[np.float64]) -> NDArray[np.float64]:
        return inv_freq / np.array(self.factors)


@dataclass(frozen=True)
class RotaryEmbedding:
    """The rotary embedding of queries and keys.

    Attributes:
        dim: How many elements of a head turn, the first ones.
        theta: Base of the wavelengths.
        scaling: How they are stretched, if they are.
    """

    dim: int
    theta: float
    scaling: RotaryScaling | None

    def table(self, context_length: int) -> NDArray[np.float32]:
        """Cosines and sines, ``[2, context_length, dim / 2]``.

        At position ``p``, with ``half = dim / 2``, the elements ``i`` and ``i + half`` of a head
        turn by the angle ``table[:, p, i]``.
        """
        inv_freq = self.theta ** -(np.arange(0, self.dim, 2, dtype=np.float64) / self.dim)
        magnitude = 1.0
        if self.scaling is not None:
            inv_freq, magnitude = self.scaling.scale(inv_freq), self.scaling.magnitude
        angles = np.outer(np.arange(context_length, dtype=np.float64), inv_freq)
        return (magnitude * np.stack([np.cos(angles), np.sin(angles)])).astype(np.float32)


def describe_rotary(config: ModelConfig, head_dim: int, context_length: int) -> RotaryEmbedding:
    """Read the rotary embedding's settings, old and new.

    Args:
        config: The checkpoint's configuration; transformers 5 keeps the rotary embedding's part
            of it in ``rope_parameters``.
        head_dim: Width of a head.
        context_length: The context that the engine is built for.

    Raises:
        CheckpointError: A setting is missing or not supported.
    """
    rope = ModelConfig(config.get("rope_parameters") or config.get("rope_scaling") or {})
    turned = rope.number("partial_rotary_factor", config.number("partial_rotary_factor", 1.0))
    dim = int(head_dim * turned)
    if dim % 2 or not 0 < dim <= head_dim:
        raise CheckpointError(
            f"the rotary embedding turns {dim} of a head's {head_dim} elements; "
            "that has to be an even number of them"
        )
    return RotaryEmbedding(
        dim=dim,
        theta=rope.number("rope_theta", default=config.number("rope_theta", 10_000.0)),
        scaling=_scaling(config, rope, dim, context_length),
    )


def _scaling(
    config: ModelConfig, rope: ModelConfig, dim: int, context_length: int
) -> RotaryScaling | None:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return None
    if kind == "llama3":
        return Llama3Scaling(
            factor=rope.number("factor"),
            low_freq_factor=rope.number("low_freq_factor"),
            high_freq_factor=rope.number("high_freq_factor"),
            original_context=rope.integer("original_max_position_embeddings"),
        )
    if kind in ("longrope", "su"):
        return _longrope(config, rope, dim, context_length)
    raise CheckpointError(
        f"the rotary scaling {kind!r} is not supported, only llama3 and longrope are"
    )


def _longrope(
    config: ModelConfig, rope: ModelConfig, dim: int, context_length: int
) -> LongropeScaling:
    """Short factors for an engine that stays within the original context, else the long ones.

    Keys in the cache can't be turned anew when a sequence outgrows the original context, so one
    set serves all positions.
    """
    original = rope.integer(
        "original_max_position_embeddings",
        default=config.integer("original_max_position_embeddings", default=4096),
    )
    stretch = rope.number("factor", config.integer("max_position_embeddings") / original)
    magnitude = math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 else 1.0
    name = "long_factor" if context_length > original else "short_factor"
    return LongropeScaling(
        factors=rope.numbers(name, dim // 2),
        magnitude=rope.number("attention_factor", default=magnitude),
    )
