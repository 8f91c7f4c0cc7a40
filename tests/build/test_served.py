"""Tiny checkpoints of every kind, built and then served by the engine that Triton runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from build.engine_folder import build_engine
from python_backend.engine.onnx_engine import OnnxEngine
from python_backend.engine.sequence import SamplingParams
from tests.build import reference
from tests.build.checkpoints import KINDS, make_config, make_tensors, write_checkpoint
from tests.build.packed import PackedEngine

PROMPTS = [[5, 17, 93, 2, 44, 61, 8, 30, 99, 12, 71, 3] * 3, [88, 4, 19, 23, 50], [7]]
GREEDY = SamplingParams(max_tokens=20)


@pytest.fixture(autouse=True)
def _little_is_calibrated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The factors for an int8 KV cache, which none of these engines has, take most of a build."""
    monkeypatch.setattr("build.calibration.MOST_TOKENS", 64)


def served(folder: Path) -> list[list[int]]:
    """Continue the prompts together, in chunks of a few tokens."""
    engine = OnnxEngine(
        folder,
        max_num_tokens=16,
        kv_cache_bytes=1 << 22,
        kv_cache_dtype="float32",  # rounded keys and values are not what the graphs say
        num_threads=1,
    )
    return engine.generate([np.array(prompt, np.int32) for prompt in PROMPTS], GREEDY)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shards", [1, 3])
def test_the_engine_continues_as_the_checkpoint_means(tmp_path, kind, shards):
    config = make_config(kind)
    tensors = make_tensors(config)
    checkpoint = write_checkpoint(tmp_path / "checkpoint", config, tensors, shards)
    build_engine(checkpoint, tmp_path / "engine", "fp32")
    for prompt, output in zip(PROMPTS, served(tmp_path / "engine"), strict=True):
        tokens, most = [*prompt, *output[:-1]], len(prompt) + GREEDY.max_tokens
        logits = reference.logits(config, tensors, tokens, most)
        chosen = logits[len(prompt) - 1 :]
        # A token that is chosen is the likeliest, or as likely but for rounding.
        assert (chosen.max(axis=1) - chosen[range(len(output)), output] < 1e-3).all()
        assert len(output) == GREEDY.max_tokens


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_quantized_engines_serve_what_their_graphs_say(tmp_path, kind, precision):
    config = make_config(kind)
    checkpoint = write_checkpoint(tmp_path / "checkpoint", config, make_tensors(config))
    build_engine(checkpoint, tmp_path / "engine", precision)
    for prompt, output in zip(PROMPTS, served(tmp_path / "engine"), strict=True):
        graphs = PackedEngine(tmp_path / "engine")
        graphs.begin(0, len(prompt) + GREEDY.max_tokens)
        tokens = prompt
        for token in output:
            logits = graphs.step([(0, tokens)])[0]
            # Graphs round inputs in blocks a little more coarsely than the native decoder.
            assert logits.max() - logits[token] < (0.05 if precision == "int8" else 0.15)
            tokens = [token]
