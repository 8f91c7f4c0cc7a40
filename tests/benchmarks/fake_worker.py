"""A worker program that holds no system: it generates what its options tell it to."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.worker import Options, main


class Fake:
    """Counts, prints where it must not, fails on demand."""

    settings: dict[str, Any] = {"kind": "fake"}  # noqa: RUF012

    def __init__(self, options: Options) -> None:
        self._options = options
        print("a library that prints while it loads")

    def generate(
        self, prompts: list[list[int]], output_tokens: int, end_ids: Sequence[int] = ()
    ) -> list[int]:
        print("a library that prints while it runs")
        mode = self._options.get("mode")
        if mode == "fail":
            raise ValueError("no such kernel")
        if mode == "die":
            os._exit(3)
        if mode == "hang":
            time.sleep(60)
        if mode == "ends":
            return [min(output_tokens, place) for place in range(len(prompts))]
        return [output_tokens - (mode == "short")] * len(prompts)

    def logits(self, tokens: list[int], rows: int) -> NDArray[np.float32]:
        if self._options.get("mode") == "short":
            raise NotImplementedError("the last token's alone")
        return np.eye(9, dtype=np.float32)[tokens[-rows:]]


def build(checkpoint: Path, model: Path, options: Options) -> None:
    """Leave what `load` looks for."""
    (model / "model.txt").write_text(f"{checkpoint.name} {options}")


def load(model: Path, options: Options) -> Fake:
    if options.get("mode") == "unloadable":
        raise FileNotFoundError(model / "model.txt")
    return Fake(options)


if __name__ == "__main__":
    main(build, load, ("numpy",))
