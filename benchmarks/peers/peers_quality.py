"""How near each system's predictions are to the checkpoint's, by the processes that are timed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.process import Worker
from build.quality.closeness import Closeness, Predictor

_SURE = 2.0
"""Standard errors of a difference beyond which it isn't chance."""


@dataclass(frozen=True)
class Quality:
    """What a system makes of the real checkpoint.

    Attributes:
        size_bytes: Of its weights, as they lie on the disk.
        closeness: To the checkpoint in float32.
    """

    size_bytes: int
    closeness: Closeness

    @classmethod
    def load(cls, stored: dict[str, Any]) -> Quality:
        """From a report."""
        return cls(stored["size_bytes"], Closeness(**stored["closeness"]))

    def is_no_worse(self, other: Quality) -> bool:
        """Whether this is as near as another or nearer, as far as the text can tell."""
        mine, theirs = self.closeness, other.closeness
        error = math.hypot(mine.divergence_error, theirs.divergence_error)
        return mine.divergence <= theirs.divergence + _SURE * error


def size_bytes(model: Path) -> int:
    """Of a model's weights: the largest file of its folder."""
    return max(file.stat().st_size for file in model.rglob("*") if file.is_file())


class WorkerPredictor:
    """A worker that says what it predicts."""

    def __init__(self, worker: Worker, folder: Path) -> None:
        self._worker = worker
        self._file = folder / "logits"

    def logits(self, tokens: NDArray[np.int32], rows: int) -> NDArray[np.float32]:
        """The logits after each of the last ``rows`` tokens."""
        return self._worker.logits(tokens.tolist(), rows, self._file)


class Remembered:
    """A predictor that computes each text once, and keeps its logits in a folder."""

    def __init__(self, predictor: Predictor, folder: Path) -> None:
        self._predictor = predictor
        self._folder = folder
        self._files: dict[tuple[bytes, int], Path] = {}

    def logits(self, tokens: NDArray[np.int32], rows: int) -> NDArray[np.float32]:
        """The logits after each of the last ``rows`` tokens."""
        key = tokens.tobytes(), rows
        if key not in self._files:
            file = self._folder / f"{len(self._files)}.npy"
            np.save(file, self._predictor.logits(tokens, rows))
            self._files[key] = file
        found: NDArray[np.float32] = np.load(self._files[key], mmap_mode="r")
        return found


def table(
    quality: dict[str, Quality], labels: dict[str, str], columns: dict[str, dict[str, str]]
) -> list[Sequence[str]]:
    """Rows of a table: each system's size and quality, and what else is known of it."""
    rows: list[Sequence[str]] = [
        [
            "system",
            "weights, MB",
            "perplexity",
            "divergence, nats a token",
            "same likeliest token",
            *columns,
        ]
    ]
    for name, each in quality.items():
        found = each.closeness
        rows.append(
            [
                labels[name],
                f"{each.size_bytes / 1e6:,.1f}",
                f"{found.increase:+.2%} ± {found.increase_error:.2%}",
                f"{found.divergence:.5f} ± {found.divergence_error:.5f}",
                f"{found.agreement:.1%}",
                *(column.get(name, "–") for column in columns.values()),
            ]
        )
    return rows
