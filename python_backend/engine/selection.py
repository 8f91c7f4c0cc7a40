"""Which token a row of logits yields, and how likely its likeliest are: in C, and in numpy.

Both weigh a row's tokens in whole numbers, e to the (logit - highest) / temperature, times 2^30,
cut off. Sums of whole numbers are exact in any order: what is chosen depends on nothing but the row
and its random number, and both choose the same.
"""

from __future__ import annotations

import ctypes
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from python_backend.engine.kernels import load_kernels, structures

DRAW = structures.DRAW
"""How a row's token is drawn.

Kept are the ``top_k`` heaviest tokens (0: all; 1: the highest logit) whose weight is at least
``least_weight`` (at least 1; the heaviest weighs 2^30), and of those the heaviest that together
have ``top_p`` of the weight (1: all). Among equal weights the lower id counts as heavier.
``random``, in ``[0, 1)``, says where in the kept weights, in the order of ids, the drawn token is.
"""

ONE = 1 << 30
"""Weight of the likeliest token."""


class Selection(Protocol):
    """Two passes over rows of logits, float32 ``[rows, vocab]``, C-contiguous."""

    def choose(
        self, logits: NDArray[np.float32], rows: list[int], draws: NDArray[Any]
    ) -> list[int]:
        """Tokens.

        Args:
            logits: All rows; one that is -infinity throughout yields token 0.
            rows: Those from which a token is chosen.
            draws: ``DRAW`` ``[chosen]``.
        """

    def describe(
        self, logits: NDArray[np.float32], rows: list[int], count: int
    ) -> tuple[list[float], NDArray[np.int32]]:
        """How likely tokens are.

        Args:
            logits: All rows.
            rows: Those that are asked for.
            count: How many of the likeliest tokens to find; at most the vocabulary.

        Returns:
            The logarithm of the sum of e to the logits of each, and int32 ``[described, count]``,
            the likeliest tokens, the likeliest first.
        """


def load_selection(num_threads: int) -> Selection:
    """The fastest selection that this machine can run, on so many threads."""
    kernels = load_kernels(num_threads)
    return NumpySelection() if kernels is None else KernelSelection(kernels)


class KernelSelection:
    """The C kernels."""

    def __init__(self, kernels: ctypes.CDLL) -> None:
        pointer, int_, int64 = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
        self._choose = kernels.trireme_choose
        self._choose.restype = None
        self._choose.argtypes = (pointer, int64, pointer, int_, pointer, pointer)
        self._describe = kernels.trireme_describe
        self._describe.restype = None
        self._describe.argtypes = (pointer, int64, pointer, int_, pointer, int_, pointer)

    def choose(
        self, logits: NDArray[np.float32], rows: list[int], draws: NDArray[Any]
    ) -> list[int]:
        """See ``Selection``."""
        which = np.array(rows, dtype=np.int32)
        tokens = np.zeros(len(rows), dtype=np.int32)
        self._choose(
            logits.ctypes.data,
            logits.shape[1],
            which.ctypes.data,
            len(rows),
            draws.ctypes.data,
            tokens.ctypes.data,
        )
        chosen: list[int] = tokens.tolist()
        return chosen

    def describe(
        self, logits: NDArray[np.float32], rows: list[int], count: int
    ) -> tuple[list[float], NDArray[np.int32]]:
        """See ``Selection``."""
        which = np.array(rows, dtype=np.int32)
        log_normalizers = np.zeros(len(rows), dtype=np.float64)
        tops = np.zeros((len(rows), count), dtype=np.int32)
        self._describe(
            logits.ctypes.data,
            logits.shape[1],
            which.ctypes.data,
            len(rows),
            log_normalizers.ctypes.data,
            count,
            tops.ctypes.data,
        )
        return log_normalizers.tolist(), tops


class NumpySelection:
    """What the kernels compute, in numpy."""

    def choose(
        self, logits: NDArray[np.float32], rows: list[int], draws: NDArray[Any]
    ) -> list[int]:
        """See ``Selection``."""
        return [_choose(logits[row], draw) for row, draw in zip(rows, draws, strict=True)]

    def describe(
        self, logits: NDArray[np.float32], rows: list[int], count: int
    ) -> tuple[list[float], NDArray[np.int32]]:
        """See ``Selection``."""
        tops = np.zeros((len(rows), count), dtype=np.int32)
        if count:
            for found, row in zip(tops, logits[rows], strict=True):
                least = np.partition(row, -count)[-count]
                likely = np.flatnonzero(row >= least)
                found[:] = likely[np.argsort(-row[likely], kind="stable")[:count]]
        return [_log_sum_exp(logits[row]) for row in rows], tops


def _choose(row: NDArray[np.float32], draw: Any) -> int:
    first = int(row.argmax())
    if draw["top_k"] == 1 or not np.isfinite(row[first]):
        return first
    weights = _weigh(row, row[first], draw["inverse_temperature"])
    heaviest = np.argsort(-weights, kind="stable")
    heaviest = heaviest[: draw["top_k"] or None]
    heaviest = heaviest[weights[heaviest] >= draw["least_weight"]]
    sums = np.cumsum(weights[heaviest])
    if draw["top_p"] < 1:
        heaviest = heaviest[: int(np.searchsorted(sums, draw["top_p"] * float(sums[-1]))) + 1]
    kept = np.sort(heaviest)
    sums = np.cumsum(weights[kept])
    number = min(int(draw["random"] * float(sums[-1])), int(sums[-1]) - 1)
    return int(kept[np.searchsorted(sums, number, side="right")])


def _weigh(
    row: NDArray[np.float32], top: np.float32, inverse_temperature: np.float32
) -> NDArray[np.int64]:
    x = (row - top) * inverse_temperature
    likely = x > np.float32(-21)
    e = np.where(likely, _exponential(np.where(likely, x, np.float32(0))), np.float32(0))
    return (e * np.float32(ONE)).astype(np.int64)


def _exponential(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """The kernel's, operation by operation: e to the x for -126 < x <= 0, exactly 1 at 0."""
    scaled = x * np.float32(1.44269504088896)
    whole = (scaled - np.float32(0.5)).astype(np.int32)
    part = scaled - whole.astype(np.float32)
    y = part * np.float32(1.535336188319500e-4) + np.float32(1.339887440266574e-3)
    for coefficient in (
        9.618437357674640e-3,
        5.550332471162809e-2,
        2.402264791363012e-1,
        6.931472028550421e-1,
        1.0,
    ):
        y = y * part + np.float32(coefficient)
    exponential: NDArray[np.float32] = (y.view(np.int32) + (whole << 23)).view(np.float32)
    return exponential


def _log_sum_exp(row: NDArray[np.float32]) -> float:
    top = row.max()
    if not np.isfinite(top):
        return float(top)
    return float(top + np.log(np.exp(row - top, dtype=np.float64).sum()))
