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
from python_backend.engine.scheduled import Scheduled


@dataclass(frozen=True)
class Limits:
    """What a runner makes room for.

    Attributes:
        max_tokens: Most tokens of a step.
        max_sequences: Most sequences of a step.
        max_rows: Most rows of logits of a step.
        num_threads: Threads to compute with.
    """

    max_tokens: int
    max_sequences: int
    max_rows: int
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
            float32 ``[rows, vocab]``: the rows of logits that each sequence wants, in order; valid
            until the next call. Or a token for each row, chosen where the logits lie, where all
            that want any take the likeliest.

        Raises:
            EngineError: The engine failed.
        """


class Observer(Protocol):
    """Is shown what attention is given, for whoever wants to know a model's activations."""

    def __call__(self, layer: int, batch: PackedBatch, qkv: NDArray[np.float32]) -> None:
        """Look at a layer's queries, keys and values.

        Args:
            layer: Which layer.
            batch: Whose tokens.
            qkv: ``[tokens, (num_heads + 2 * num_kv_heads) * head_dim]``, not rotated; valid during
                the call, and not to be changed.
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
    """Lays steps out, ids and rows always in the same memory: a runner may know where they lie."""

    def __init__(self, limits: Limits) -> None:
        self._ids = np.zeros(limits.max_tokens, dtype=np.int64)
        self._rows = np.zeros(limits.max_rows, dtype=np.int64)

    def pack(self, work: list[Scheduled]) -> Packed:
        """Lay scheduled tokens side by side; valid until the next call."""
        starts = np.zeros(len(work) + 1, dtype=np.int32)
        np.cumsum([each.num_tokens for each in work], out=starts[1:])
        lengths = np.array([each.sequence.num_computed for each in work], dtype=np.int32)
        rotary_starts = np.array([each.sequence.rotary_start for each in work], dtype=np.int32)
        tables = np.zeros((len(work), max(len(e.sequence.blocks) for e in work)), dtype=np.int32)
        ids: list[int] = []
        for index, each in enumerate(work):
            blocks = each.sequence.blocks
            tables[index, : len(blocks)] = blocks
            ids += each.sequence.pending(each.num_tokens)
        assert len(ids) == starts[-1], "tokens that don't exist"
        self._ids[: len(ids)] = ids
        # Each sequence's rows are those of its last tokens.
        counts = np.array([each.num_rows for each in work], dtype=np.int64)
        ends = np.cumsum(counts)
        rows = self._rows[: counts.sum()]
        rows[:] = np.arange(rows.size) + np.repeat(starts[1:] - ends, counts)
        batch = PackedBatch(starts, lengths, rotary_starts, tables)
        return Packed(self._ids[: len(ids)], rows, batch)


def load_rotary(folder: Path, config: EngineConfig) -> NDArray[np.float32]:
    """The rotary embedding's cosines and sines, ``[2, rows, rotary_dim / 2]``.

    A row is a position's. Where short sequences are turned otherwise, their rows come after those
    of the others: see :meth:`EngineConfig.rotary_start`.

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
    rows = config.context_length + config.short_context
    if rotary.shape != (2, rows, angles) or rotary.dtype != np.float32:
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
