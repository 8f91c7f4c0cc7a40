"""The rotary embedding, whatever stretches it: its settings, and its cosines and sines."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from build.build_errors import CheckpointError
from build.family import Family, Settings
from build.model_config import Reader, flag, listed, number, optional, required, size, wrong


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
class LinearScaling:
    """Every position divided by one factor.

    Attributes:
        factor: How much longer the context became.
    """

    factor: float
    magnitude: float = 1.0

    def scale(self, inv_freq: NDArray[np.float64]) -> NDArray[np.float64]:
        return inv_freq / self.factor


@dataclass(frozen=True)
class YarnScaling:
    """YaRN (arXiv:2309.00071): fast waves kept, slow ones stretched, those between interpolated.

    Attributes:
        factor: How much the slow ones are stretched.
        kept: How far each wave is kept, 1 all and 0 not at all, ``[rotary_dim / 2]``.
        magnitude: Multiplies cosines and sines.
    """

    factor: float
    kept: tuple[float, ...]
    magnitude: float

    def scale(self, inv_freq: NDArray[np.float64]) -> NDArray[np.float64]:
        kept = np.array(self.kept)
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
        short: How they are stretched in sequences that stay within ``short_context`` tokens, where
            that is not as in the others.
        short_context: That many; 0 where one way serves all.
    """

    dim: int
    theta: float
    scaling: RotaryScaling | None
    short: RotaryScaling | None = None
    short_context: int = 0

    def table(self, context_length: int) -> NDArray[np.float32]:
        """Cosines and sines, ``[2, context_length + short_context, dim / 2]``.

        At position ``p``, with ``half = dim / 2``, the elements ``i`` and ``i + half`` of a head
        turn by the angle ``table[:, p, i]``, or in a short sequence by that of the row
        ``context_length + p``.
        """
        long = self._rows(context_length, self.scaling)
        return np.concatenate([long, self._rows(self.short_context, self.short)], axis=1)

    def _rows(self, positions: int, scaling: RotaryScaling | None) -> NDArray[np.float32]:
        inv_freq = self.theta ** -(np.arange(0, self.dim, 2, dtype=np.float64) / self.dim)
        magnitude = 1.0
        if scaling is not None:
            inv_freq, magnitude = scaling.scale(inv_freq), scaling.magnitude
        angles = np.outer(np.arange(positions, dtype=np.float64), inv_freq)
        return (magnitude * np.stack([np.cos(angles), np.sin(angles)])).astype(np.float32)


def describe_rotary(
    family: Family, settings: Settings, context_length: int
) -> tuple[RotaryEmbedding, list[str]]:
    """The rotary embedding, and what a person should know of it.

    Args:
        family: Whose it is.
        settings: The checkpoint's.
        context_length: The context that the engine is built for.

    Raises:
        CheckpointError: A setting is missing, wrong or not supported.
    """
    rope = rope_parameters(family, settings)
    kind, notes = rope["rope_type"], []
    if unknown := sorted(name for name in rope if name not in (*_EVERY_KIND, *_READ[kind])):
        notes.append(f"ignored: {', '.join(unknown)} of the rotary embedding, not of {kind}")
    turned = required(rope, "partial_rotary_factor", number)
    if not family.turns_partly and turned != 1:
        if kind != "default":
            raise CheckpointError(
                f"partial_rotary_factor = {turned} beside the rotary scaling {kind!r} is not "
                f"supported for {family.architecture}"
            )
        notes.append(f"ignored: partial_rotary_factor of config.json, not of {family.architecture}")
        turned = 1.0
    dim = int(settings.head_width * turned)
    if dim % 2 or not 0 < dim <= settings.head_width:
        raise CheckpointError(
            f"the rotary embedding turns {dim} of a head's {settings.head_width} elements; "
            "that has to be an even number of them"
        )
    theta = required(rope, "rope_theta", number)
    if kind == "longrope":
        embedding = _longrope(settings, rope, dim, theta, context_length)
        return embedding, [*notes, _longrope_note(embedding, context_length)]
    return RotaryEmbedding(dim=dim, theta=theta, scaling=_scaling(settings, rope, dim)), notes


_EVERY_KIND = ("rope_type", "type", "rope_theta", "partial_rotary_factor")
_READ: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "longrope": (
        "short_factor",
        "long_factor",
        "factor",
        "attention_factor",
        "original_max_position_embeddings",
    ),
    "yarn": (
        "factor",
        "attention_factor",
        "mscale",
        "mscale_all_dim",
        "beta_fast",
        "beta_slow",
        "truncate",
        "original_max_position_embeddings",
    ),
}
"""What each kind of scaling reads."""


def rope_parameters(family: Family, settings: Settings) -> dict[str, Any]:
    """The rotary embedding's settings in the form of transformers 5, from an old or a new config.

    transformers 4 wrote ``rope_scaling`` and beside it ``rope_theta``; where there are both forms,
    the old one goes first. ``original_max_position_embeddings`` in the middle of ``config.json``
    goes before that of the rotary embedding.

    Raises:
        CheckpointError: The scaling is of a kind that is not supported.
    """
    rope = dict(settings.rope_scaling or settings.rope_parameters)
    if inner := [name for name, value in rope.items() if isinstance(value, dict)]:
        raise CheckpointError(f"a rotary embedding for {inner[0]} alone is not supported")
    said = rope["rope_type"] if "rope_type" in rope else rope.get("type", "default")
    if said not in family.rope_types:
        known = ", ".join(name for name in family.rope_types if name != "default")
        raise CheckpointError(
            f"the rotary scaling {said!r} is not supported for {family.architecture}; those that "
            f"are: {known}"
        )
    rope["rope_type"] = family.rope_types[said]
    rope.setdefault("rope_theta", settings.rope_theta)
    turned = settings.partial_rotary_factor
    rope.setdefault("partial_rotary_factor", 1.0 if turned is None else turned)
    if "original_max_position_embeddings" in _READ[rope["rope_type"]]:
        original = settings.original_max_position_embeddings
        if original is not None:
            rope["original_max_position_embeddings"] = original
        rope.setdefault("original_max_position_embeddings", settings.max_position_embeddings)
    return rope


def _scaling(settings: Settings, rope: Mapping[str, Any], dim: int) -> RotaryScaling | None:
    match rope["rope_type"]:
        case "linear":
            return LinearScaling(factor=required(rope, "factor", number))
        case "llama3":
            return _llama3(rope)
        case "yarn":
            return _yarn(settings, rope, dim)
        case "dynamic":
            # Stretches what is longer than max_position_embeddings, which nothing is here.
            required(rope, "factor", number)
    return None


def _llama3(rope: Mapping[str, Any]) -> Llama3Scaling:
    scaling = Llama3Scaling(
        factor=required(rope, "factor", number),
        low_freq_factor=required(rope, "low_freq_factor", number),
        high_freq_factor=required(rope, "high_freq_factor", number),
        original_context=required(rope, "original_max_position_embeddings", size),
    )
    if scaling.high_freq_factor <= scaling.low_freq_factor:
        wrong("high_freq_factor", scaling.high_freq_factor, "more than low_freq_factor")
    return scaling


def _stretch(settings: Settings, rope: Mapping[str, Any]) -> float:
    """How much longer the context became: the factor, or what the two lengths say."""
    original = required(rope, "original_max_position_embeddings", size)
    return _given(rope, "factor", number) or settings.max_position_embeddings / original


def _yarn(settings: Settings, rope: Mapping[str, Any], dim: int) -> YarnScaling:
    factor, theta = _stretch(settings, rope), required(rope, "rope_theta", number)
    original = required(rope, "original_max_position_embeddings", size)

    def magnitude(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    def wave(turns: float) -> float:
        """The one that turns so often within the original context."""
        return dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low = wave(_given(rope, "beta_fast", number) or 32.0)
    high = wave(_given(rope, "beta_slow", number) or 1.0)
    if "truncate" not in rope or flag("truncate", rope["truncate"]):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    kept = 1.0 - np.clip((np.arange(dim // 2) - low) / (high - low), 0.0, 1.0)
    one, other = (_given(rope, name, number) for name in ("mscale", "mscale_all_dim"))
    computed = magnitude(one) / magnitude(other) if one and other else magnitude(1.0)
    return YarnScaling(
        factor=factor,
        kept=tuple(float(each) for each in kept),
        magnitude=_given(rope, "attention_factor", number) or computed,
    )


def _longrope(
    settings: Settings, rope: Mapping[str, Any], dim: int, theta: float, context_length: int
) -> RotaryEmbedding:
    """Short factors for sequences that stay within the original context, else the long ones.

    Keys in the cache can't be turned anew when a sequence outgrows the original context, so one
    set serves all of its positions. Their magnitude is the same.
    """
    original = required(rope, "original_max_position_embeddings", size)
    stretch = _stretch(settings, rope)
    magnitude = math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 else 1.0
    magnitude = _given(rope, "attention_factor", number) or magnitude

    def scaling(name: str) -> LongropeScaling:
        factors = listed(number)(name, rope.get(name) or [])
        if len(factors) != dim // 2:
            raise CheckpointError(f"config.json has no {name} of {dim // 2} numbers")
        return LongropeScaling(factors, magnitude)

    short, long = scaling("short_factor"), scaling("long_factor")
    if context_length <= original:
        return RotaryEmbedding(dim, theta, short)
    return RotaryEmbedding(dim, theta, long, short, original)


def _longrope_note(embedding: RotaryEmbedding, context_length: int) -> str:
    if not embedding.short_context:
        return f"LongRoPE: short factors, for texts of up to {context_length:,} tokens"
    return (
        f"LongRoPE, on a CPU: short factors for requests whose prompt and max_tokens are at most "
        f"{embedding.short_context:,} tokens together, long ones for all others; for CUDA: long "
        "ones for all"
    )


def _given(rope: Mapping[str, Any], name: str, read: Reader) -> Any:
    return optional(read)(name, rope.get(name))
