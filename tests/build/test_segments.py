"""The segments compute what the checkpoint means: compared with a reference in float64."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from build.checkpoint import Checkpoint
from build.engine_folder import build_engine
from build.quantize import quantize_int4, quantize_int8
from python_backend.engine.engine_config import WEIGHTS_FILE, Precision
from python_backend.engine.tensor_places import TENSORS_FILE
from tests.build import reference
from tests.build.checkpoints import (
    KINDS,
    make_checkpoint,
    make_config,
    make_tensors,
    write_checkpoint,
)
from tests.build.packed import PackedEngine
from tests.build.test_quantize import dequantize, relative_error

Reference = Callable[[list[int]], NDArray[np.float64]]
Build = Callable[..., tuple[Path, Reference]]

TOKENS = [[5, 17, 93, 2, 44, 61, 8, 30, 99, 12, 71, 3], [88, 4, 19, 23, 50], [7]]
NEXT = [31, 100, 0]


@pytest.fixture(autouse=True)
def _little_is_calibrated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The factors for an int8 KV cache, which none of these engines has, take most of a build."""
    monkeypatch.setattr("build.calibration.MOST_TOKENS", 64)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Builds tiny engines, each once; gives a folder and the reference for the same checkpoint."""

    @cache
    def build(
        kind: str, precision: Precision = "fp32", dtype: str = "fp32", **changes: Any
    ) -> tuple[Path, Reference]:
        config = make_config(kind, **changes)
        tensors = make_tensors(config, dtype)
        root = tmp_path_factory.mktemp(kind)
        checkpoint = write_checkpoint(root / "checkpoint", config, tensors)
        build_engine(checkpoint, root / "engine", precision)
        return root / "engine", lambda tokens: reference.logits(config, tensors, tokens)

    return build


def test_prefill(build, kind):
    folder, expected = build(kind)
    actual = PackedEngine(folder).step([(0, TOKENS[0])])
    np.testing.assert_allclose(actual[0], expected(TOKENS[0])[-1], atol=1e-4)


def test_chunked_prefill_onto_a_past(build, kind):
    folder, expected = build(kind)
    engine = PackedEngine(folder)
    logits = expected(TOKENS[0])
    for start, end in ((0, 5), (5, 6), (6, 12)):
        actual = engine.step([(0, TOKENS[0][start:end])])
        np.testing.assert_allclose(actual[0], logits[end - 1], atol=1e-4)


def test_sequences_of_different_lengths_packed(build, kind):
    folder, expected = build(kind)
    engine = PackedEngine(folder)
    # Together: whole prompts; then decode, the rest of a prompt and a new one; then decode.
    steps = [
        [(0, TOKENS[0]), (1, TOKENS[1][:2])],
        [(2, TOKENS[2]), (0, NEXT[:1]), (1, TOKENS[1][2:])],
        [(0, NEXT[1:2]), (1, NEXT[1:2]), (2, NEXT[2:])],
    ]
    so_far: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for batch in steps:
        actual = engine.step(batch)
        for row, (sequence, tokens) in enumerate(batch):
            so_far[sequence] += tokens
            np.testing.assert_allclose(actual[row], expected(so_far[sequence])[-1], atol=1e-4)


def test_the_residual_can_stay_in_its_memory(build):
    """A runner may keep the residual stream in one place: outputs bound to the inputs' memory."""
    folder, _ = build("llama")
    segment = PackedEngine(folder).segments[1]
    rng = np.random.default_rng(0)
    attention, residual = rng.standard_normal((2, 5, 64), dtype=np.float32)
    inputs = {"attention": attention, "residual": residual}
    expected, _ = segment.run(["next_residual", "qkv"], inputs)
    binding = segment.io_binding()
    place = ("cpu", 0, np.float32, residual.shape, residual.ctypes.data)
    binding.bind_cpu_input("attention", attention)
    binding.bind_input("residual", *place)
    binding.bind_output("next_residual", *place)
    binding.bind_output("qkv")
    segment.run_with_iobinding(binding)
    np.testing.assert_array_equal(residual, expected)


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("kind", ["llama", "llama-untied", "qwen2"], indirect=True)
def test_half_precision_checkpoints(build, kind, dtype):
    folder, expected = build(kind, dtype=dtype)
    actual = PackedEngine(folder).step([(0, TOKENS[0])])
    np.testing.assert_allclose(actual[0], expected(TOKENS[0])[-1], atol=1e-4)


def test_a_single_layer(build):
    folder, expected = build("llama", num_hidden_layers=1)
    actual = PackedEngine(folder).step([(0, TOKENS[0])])
    np.testing.assert_allclose(actual[0], expected(TOKENS[0])[-1], atol=1e-4)


def test_positions_up_to_the_context_length(build):
    folder, expected = build("llama3-scaling")
    tokens = [(7 * i) % 101 for i in range(128)]
    actual = PackedEngine(folder).step([(0, tokens)])
    np.testing.assert_allclose(actual[0], expected(tokens)[-1], atol=1e-4)


def test_tied_embeddings_are_stored_once_in_fp32(build):
    sizes = {}
    for kind in ("llama", "llama-untied"):
        folder, _ = build(kind)
        sizes[kind] = (folder / WEIGHTS_FILE).stat().st_size
    table_bytes = 101 * 64 * 4
    assert sizes["llama-untied"] - sizes["llama"] >= table_bytes


@pytest.mark.parametrize("hidden_size", [64, 48])
def test_a_tied_embedding_in_eight_bits_is_looked_up_in_its_blocks(tmp_path, hidden_size):
    changes = {"hidden_size": hidden_size, "head_dim": 16}
    checkpoint = make_checkpoint(tmp_path / "llama", "llama", "bf16", **changes)
    untied = make_checkpoint(tmp_path / "llama-untied", "llama-untied", "bf16", **changes)
    cases: tuple[tuple[str, Path, Precision, Precision | None], ...] = (
        ("mixed", checkpoint, "int4", "int8_block"),
        ("int8_block", checkpoint, "int8_block", None),
        ("untied", untied, "int8_block", None),
    )
    for name, folder, precision, head in cases:
        build_engine(folder, tmp_path / name, precision, head=head)
        stored = json.loads((tmp_path / name / TENSORS_FILE).read_text())
        assert ("model.embed_tokens.weight" in stored) == (name == "untied")
    graph = onnxruntime.InferenceSession(tmp_path / "mixed" / "segment_00.onnx")
    with Checkpoint(checkpoint) as opened:
        table = opened.tensor("model.embed_tokens.weight").astype(np.float32)
    found = graph.run(["next_residual"], {"input_ids": np.arange(101)})[0]
    assert 0 < np.abs(found - table).max() < np.abs(table).max() / 200


# What is left is the rounding of activations to eight bits inside the products, which weighs more
# where it is done once for a row (int8) than once for 32 of its values (int4).
@pytest.mark.parametrize(("precision", "error"), [("int8", 0.06), ("int4", 0.06)])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_an_engine_is_near_the_weights_it_rounds_to(build, kind, precision, error, dtype):
    folder, _ = build(kind, precision, dtype)
    config = make_config(kind)
    tensors = make_tensors(config, dtype)
    table = tensors["model.embed_tokens.weight"]
    rounded = {
        name: rounded_weight(tensor, precision) if name.endswith("_proj.weight") else tensor
        for name, tensor in tensors.items()
    }
    rounded["lm_head.weight"] = rounded_weight(tensors.get("lm_head.weight", table), precision)
    expected = reference.logits({**config, "tie_word_embeddings": False}, rounded, TOKENS[0])
    engine = PackedEngine(folder)
    for start, end in ((0, 5), (5, 12)):
        actual = engine.step([(0, TOKENS[0][start:end])])[0]
        assert relative_error(actual, expected[end - 1]) < error


def rounded_weight(tensor: NDArray[Any], precision: Precision) -> NDArray[np.float64]:
    rows = tensor.astype(np.float32)
    if precision == "int4":
        return dequantize(quantize_int4(rows), rows.shape[1])
    levels, scales = quantize_int8(rows)
    return levels.astype(np.float64) * scales[:, None].astype(np.float64)


@pytest.mark.parametrize("rows", [[0], [39], [7, 8, 9], [38, 0, 17, 5], list(range(1, 40, 2))])
def test_int8_rows_do_not_depend_on_their_neighbours(build, kind, rows):
    """To the bit, whichever rows a token is computed with and wherever it stands among them."""
    folder, _ = build(kind, "int8")
    rng = np.random.default_rng(5)
    for index, segment in enumerate(PackedEngine(folder).segments):
        inputs: dict[str, NDArray[Any]] = {"input_ids": rng.integers(0, 101, 40)}
        if index:
            config = make_config(kind)
            width = config.get("head_dim", 16) * 4
            magnitudes = 10 ** rng.uniform(-4, 4, (40, 1))
            inputs = {
                "attention": (rng.standard_normal((40, width)) * magnitudes).astype(np.float32),
                "residual": rng.standard_normal((40, 64), dtype=np.float32),
            }
        some = {name: value[rows] for name, value in inputs.items()}
        if index == 2:
            inputs["rows"] = np.arange(40)
            some["rows"] = np.arange(len(rows))
        together = segment.run(None, inputs)
        for all_rows, some_rows in zip(together, segment.run(None, some), strict=True):
            np.testing.assert_array_equal(all_rows[rows], some_rows)


def test_int8_products_do_not_overflow(tmp_path):
    """All weights and activations at their largest, where sums of products are too."""
    config = make_config("llama")
    tensors = make_tensors(config)
    name = "model.layers.0.self_attn.o_proj.weight"
    tensors[name] = np.full((64, 64), 0.5, np.float32)
    checkpoint = write_checkpoint(tmp_path / "checkpoint", config, tensors)
    build_engine(checkpoint, tmp_path / "engine", "int8")
    segment = PackedEngine(tmp_path / "engine").segments[1]
    residual = np.zeros((4, 64), np.float32)
    attention = np.ones((4, 64), np.float32)
    # The norms after the product don't know its magnitude: a part of the residual shows it.
    residual[:, ::2] = -32
    actual, _ = segment.run(None, {"attention": attention, "residual": residual})
    expected, _ = segment.run(None, {"attention": attention * 0, "residual": residual + 32})
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_int8_rows_of_zeros(build):
    """Nothing to divide by: the product is zero, and what is added to it stays."""
    folder, _ = build("llama", "int8")
    segment = PackedEngine(folder).segments[1]
    residual = np.random.default_rng(0).standard_normal((3, 64), dtype=np.float32)
    attention = np.zeros((3, 64), np.float32)
    tiny = np.full((3, 64), 1e-30, np.float32)
    expected = segment.run(None, {"attention": tiny, "residual": residual})
    actual = segment.run(None, {"attention": attention, "residual": residual})
    for value, near in zip(actual, expected, strict=True):
        np.testing.assert_allclose(value, near, rtol=1e-6)
    for value in segment.run(None, {"attention": attention, "residual": 0 * residual}):
        np.testing.assert_array_equal(value, np.zeros_like(value))
