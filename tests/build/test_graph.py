"""The graph computes what the checkpoint means: compared with a reference in float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from build.engine import Precision, build_engine
from build.quantize import quantize_int4
from tests.build import reference
from tests.build.checkpoints import KINDS, Engine, make_config, make_tensors, write_checkpoint
from tests.build.test_quantize import dequantize, relative_error

TOKENS = [[5, 17, 93, 2, 44, 61, 8, 30, 99, 12, 71, 3], [88, 4, 19, 23, 50], [7]]
NEXT = [[31], [100], [0]]


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def build(
    folder: Path, kind: str, precision: Precision = "fp32", dtype: str = "fp32", **changes: Any
) -> tuple[Path, Callable[[list[int]], NDArray[np.float64]]]:
    """Build a tiny engine; returns its folder and the reference for the same checkpoint."""
    config = make_config(kind, **changes)
    tensors = make_tensors(config, dtype)
    checkpoint = write_checkpoint(folder / "checkpoint", config, tensors)
    build_engine(checkpoint, folder / "engine", precision)
    return folder / "engine", lambda tokens: reference.logits(config, tensors, tokens)


def test_prefill(tmp_path, kind):
    engine, expected = build(tmp_path, kind)
    actual = Engine(engine).step(TOKENS[:1])
    np.testing.assert_allclose(actual[0], expected(TOKENS[0])[-1], atol=1e-4)


def test_chunked_prefill_onto_a_past(tmp_path, kind):
    folder, expected = build(tmp_path, kind)
    engine = Engine(folder)
    logits = expected(TOKENS[0])
    for start, end in ((0, 5), (5, 6), (6, 12)):
        actual = engine.step([TOKENS[0][start:end]])
        np.testing.assert_allclose(actual[0], logits[end - 1], atol=1e-4)


def test_batched_decode_of_rows_of_different_lengths(tmp_path, kind):
    folder, expected = build(tmp_path, kind)
    engine = Engine(folder, rows=3)
    for row, tokens in enumerate(TOKENS):
        engine.step([tokens], slice(row, row + 1))
    together = engine.step(NEXT)
    for row, tokens in enumerate(TOKENS):
        np.testing.assert_allclose(together[row], expected(tokens + NEXT[row])[-1], atol=1e-4)


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("kind", ["llama", "llama-untied", "qwen2"], indirect=True)
def test_half_precision_checkpoints(tmp_path, kind, dtype):
    folder, expected = build(tmp_path, kind, dtype=dtype)
    actual = Engine(folder).step(TOKENS[:1])
    np.testing.assert_allclose(actual[0], expected(TOKENS[0])[-1], atol=1e-4)


def test_a_single_layer(tmp_path):
    folder, expected = build(tmp_path, "llama", num_hidden_layers=1)
    actual = Engine(folder).step(TOKENS[:1])
    np.testing.assert_allclose(actual[0], expected(TOKENS[0])[-1], atol=1e-4)


def test_positions_up_to_the_context_length(tmp_path):
    folder, expected = build(tmp_path, "llama3-scaling")
    tokens = [(7 * i) % 101 for i in range(128)]
    actual = Engine(folder, capacity=128).step([tokens])
    np.testing.assert_allclose(actual[0], expected(tokens)[-1], atol=1e-4)


def test_tied_embeddings_are_stored_once_in_fp32(tmp_path):
    sizes = {}
    for kind in ("llama", "llama-untied"):
        folder, _ = build(tmp_path / kind, kind)
        sizes[kind] = (folder / "model.onnx.data").stat().st_size
    table_bytes = 101 * 64 * 4
    assert sizes["llama-untied"] - sizes["llama"] >= table_bytes


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_int4_is_near_the_weights_it_rounds_to(tmp_path, kind, dtype):
    """What is left is the rounding of activations to int8 inside the products."""
    folder, _ = build(tmp_path, kind, "int4", dtype)
    config = make_config(kind)
    tensors = make_tensors(config, dtype)
    table = tensors["model.embed_tokens.weight"]
    rounded = {
        name: round_to_int4(tensor) if name.endswith("_proj.weight") else tensor
        for name, tensor in tensors.items()
    }
    rounded["lm_head.weight"] = round_to_int4(tensors.get("lm_head.weight", table))
    expected = reference.logits({**config, "tie_word_embeddings": False}, rounded, TOKENS[0])
    engine = Engine(folder)
    for start, end in ((0, 5), (5, 12)):
        actual = engine.step([TOKENS[0][start:end]])[0]
        assert relative_error(actual, expected[end - 1]) < 0.06
        assert actual.argmax() == expected[end - 1].argmax()


def round_to_int4(tensor: NDArray[Any]) -> NDArray[np.float64]:
    return dequantize(quantize_int4(tensor.astype(np.float32)), tensor.shape[1])
