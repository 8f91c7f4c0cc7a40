"""Trireme's engine in process, as ``benchmarks/engine_throughput.py`` measures it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engine_throughput import load_engine
from benchmarks.peers.worker import Options, main
from build.engine_folder import build_engine
from python_backend.engine.attention import BLOCK_TOKENS
from python_backend.engine.onnx_engine import OnnxEngine
from python_backend.engine.sequence import SamplingParams


class Trireme:
    """The engine, called step by step."""

    def __init__(self, engine: OnnxEngine) -> None:
        self._engine = engine
        self.settings: dict[str, Any] = {
            "precision": engine.config.precision,
            "runner": engine.runner.name,
            "KV cache": engine.layout.kv_dtype,
            "KV cache bytes a token": engine.layout.block_bytes // BLOCK_TOKENS,
        }

    def generate(self, prompts: list[list[int]], output_tokens: int) -> list[int]:
        """Continue all prompts by ``output_tokens``."""
        params = SamplingParams(max_tokens=output_tokens)
        arrays = [np.array(prompt, dtype=np.int32) for prompt in prompts]
        return [len(output) for output in self._engine.generate(arrays, params)]


def build(checkpoint: Path, model: Path, options: Options) -> None:
    """Build the engine folder."""
    build_engine(checkpoint, model / "engine", options["precision"])


def load(model: Path, options: Options) -> Trireme:
    """Load the engine folder."""
    return Trireme(load_engine(model / "engine"))


if __name__ == "__main__":
    main(build, load, ("onnxruntime", "numpy"))
