"""Trireme's engine in process, as ``benchmarks/engine_throughput.py`` measures it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.engine_throughput import load_engine
from benchmarks.peers.worker import Options, main
from build.engine_folder import build_engine
from build.quality.reading import EnginePredictor
from python_backend.engine.attention import BLOCK_TOKENS
from python_backend.engine.sequence import SamplingParams


class Trireme:
    """The engine, called step by step."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._engine = engine = load_engine(folder)
        self._predictor: EnginePredictor | None = None
        self.settings: dict[str, Any] = {
            "precision": engine.config.precision,
            "runner": engine.runner.name,
            "KV cache": engine.layout.kv_dtype,
            "KV cache bytes a token": engine.layout.block_bytes // BLOCK_TOKENS,
        }

    def generate(
        self, prompts: list[list[int]], output_tokens: int, end_ids: Sequence[int] = ()
    ) -> list[int]:
        """Continue all prompts by ``output_tokens``, or to an end."""
        params = SamplingParams(max_tokens=output_tokens, end_ids=frozenset(end_ids))
        arrays = [np.array(prompt, dtype=np.int32) for prompt in prompts]
        return [len(output) for output in self._engine.generate(arrays, params)]

    def logits(self, tokens: list[int], rows: int) -> NDArray[np.float32]:
        """What the same engine folder predicts, by an engine that computes every row."""
        if self._predictor is None:
            self._predictor = EnginePredictor(self._folder)
        return self._predictor.logits(np.array(tokens, np.int32), rows)


def build(checkpoint: Path, model: Path, options: Options) -> None:
    """Build the engine folder."""
    build_engine(checkpoint, model / "engine", **build_options(options))


def build_options(options: Options) -> Any:
    """What of an engine a system's options say."""
    return {
        "precision": options["precision"],
        "head": options.get("head"),
        "smoothing": "smoothing" in options,
        "int4_method": options.get("int4_method", "rtn"),
    }


def load(model: Path, options: Options) -> Trireme:
    """Load the engine folder."""
    return Trireme(model / "engine")


if __name__ == "__main__":
    main(build, load, ("onnxruntime", "numpy"))
