"""What computes a step's logits: the interface, and what its implementations share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from contract.errors import EngineError
from python_backend.engine.attention import PackedBatch
from python_backend.engine.engine_config import ROTARY_FILE, SMOOTHING_FILE, EngineConfig
from python_backend.engine.scheduler import Scheduled


@dataclass(frozen=True)
class Limits:
    """What a runner makes room for.

    Attributes:
        max_tokens: Most tokens of a step.
        max_sequences: Most sequences of a step.
        num_threads: Threads to compute with.
    """

    max_tokens: int
    max_sequences: int
    num_threads: int


class Runner(Protocol):
    """Computes steps.

    Attributes:
        name: What computes, for a log.
    """

    name: str

    def run(self, work: list[Scheduled]) -> NDArray[np.float32] | list[int]:
        """Compute the scheduled tokens.

        Args:
            work: What is scheduled; the sequences' blocks have room for it.

        Returns:
            float32 ``[sequences, vocab]``: logits after the last token of each sequence that is to
            choose a next one, in order; valid until the next call. Or the tokens themselves, where
            all of these sequences take the likeliest, chosen where the logits lie.

        Raises:
            EngineError: The engine failed.
        """


@dataclass(frozen=True)
class Packed:
    """A step's tokens, of all its sequences side by side without padding.

    Attributes:
        ids: int64 ``[tokens]``.
        rows: int64 ``[rows]``: the tokens whose logits are wanted; they rise.
        batch: Whose tokens they are.
    """

    ids: NDArray[np.int64]
    rows: NDArray[np.int64]
    batch: PackedBatch


class Packer:
    """Lays steps out, always in the same memory."""

    def __init__(self, limits: Limits) -> None:
        self._ids = np.zeros(limits.max_tokens, dtype=np.int64)
        self._rows = np.zeros(limits.max_sequences, dtype=np.int64)

    def pack(self, work: list[Scheduled]) -> Packed:
        """Lay scheduled tokens side by side; valid until the next call."""
        starts = np.zeros(len(work) + 1, dtype=np.int32)
        np.cumsum([each.num_tokens for each in work], out=starts[1:])
        lengths = np.array([each.sequence.num_computed for each in work], dtype=np.int32)
        tables = np.zeros((len(work), max(len(e.sequence.blocks) for e in work)), dtype=np.int32)
        rows = 0
        for index, each in enumerate(work):
            sequence, computed = each.sequence, each.sequence.num_computed
            assert computed + each.num_tokens <= sequence.num_tokens, "tokens that don't exist"
            tables[index, : len(sequence.blocks)] = sequence.blocks
            self._ids[starts[index] : starts[index + 1]] = sequence.pending(each.num_tokens)
            if each.samples:
                self._rows[rows] = starts[index + 1] - 1
                rows += 1
        batch = PackedBatch(starts, lengths, tables)
        return Packed(self._ids[: starts[-1]], self._rows[:rows], batch)


def load_rotary(folder: Path, config: EngineConfig) -> NDArray[np.float32]:
    """The rotary embedding's cosines and sines, ``[2, context, rotary_dim / 2]``.

    Raises:
        EngineError: They are missing or not this engine's.
    """
    path = folder / ROTARY_FILE
    try:
        rotary: NDArray[np.float32] = np.load(path)
    except (OSError, ValueError) as error:
        raise EngineError(f"{path} can't be read: {error}") from error
    turned = max(each.rotary_dim for each in config.decoder.heads)
    angles = turned // 2 if turned else rotary.shape[-1]  # of any width where no layer turns
    if rotary.shape[::2] != (2, angles) or rotary.dtype != np.float32:
        raise EngineError(f"{path} is not this engine's")
    return rotary


def load_smoothing(folder: Path, config: EngineConfig) -> NDArray[np.float32] | None:
    """What keys are divided and queries multiplied by before they are rounded; None for nothing.

    Returns:
        float32 ``[layers, num_kv_heads, head_dim]``.

    Raises:
        EngineError: The file can't be read or is not this engine's.
    """
    path = folder / SMOOTHING_FILE
    if not path.exists():
        return None
    try:
        factors: NDArray[np.float32] = np.load(path)
    except (OSError, ValueError) as error:
        raise EngineError(f"{path} can't be read: {error}") from error
    shape = (config.num_layers, config.num_kv_heads, config.head_dim)
    if factors.shape != shape or factors.dtype != np.float32 or not (factors > 0).all():
        raise EngineError(f"{path} is not this engine's")
    return factors
