"""The graph for CUDA: what ONNX Runtime's own schemas say of it, and what it computes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from build.build_errors import BuildError, CheckpointError
from build.engine_folder import build_engine
from build.quantize import FLOAT8_BLOCK_SIZE, quantize_float8, quantize_int4
from python_backend.engine.attention import PackedBatch
from python_backend.engine.cuda_device import CudaLayout
from python_backend.engine.cuda_runner import feeds
from python_backend.engine.engine_config import GRAPH_FILE, WEIGHTS_FILE, EngineConfig, Precision
from python_backend.engine.runner import Packed
from tests.build import reference
from tests.build.checkpoints import make_checkpoint, make_config, make_tensors, write_checkpoint
from tests.build.reference_device import Array, ReferenceSession
from tests.build.test_quantize import dequantize

KINDS = [
    "llama",
    "llama-untied",
    "llama3-scaling",
    "mistral-window",
    "qwen2",
    "qwen3",
    "phi3",
    "smollm3",
]
PRECISIONS: tuple[Precision, ...] = ("fp16", "fp8", "int4")
RNG = np.random.default_rng(4)
TOKENS = [RNG.integers(3, 101, length).tolist() for length in (60, 21, 40)]

# PagedAttention has a kernel for CUDA alone; its schema is in every build since 1.22.
RECENT = tuple(map(int, ort.__version__.split(".")[:2])) >= (1, 31)
needs_schema = pytest.mark.skipif(not RECENT, reason="an onnxruntime before 1.31 (Python 3.10)")


def build(folder: Path, kind: str = "llama", precision: Precision = "fp16", **changes: Any) -> Path:
    checkpoint = make_checkpoint(folder / "checkpoint", kind, dtype="bf16", **changes)
    build_engine(checkpoint, folder / "1", precision, execution_provider="cuda")
    return folder / "1"


def session_error(path: Path) -> str:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    with pytest.raises(Exception) as error:  # noqa: PT011 onnxruntime's classes have no base
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return str(error.value)


@needs_schema
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_only_kernels_that_cuda_alone_has_are_missing_on_a_cpu(
    tmp_path: Path, kind: str, precision: Precision
) -> None:
    """ONNX Runtime has checked all types by then. It computes float16 on a CPU by casting to
    float32 and back, which these operators are not defined for.
    """
    error = session_error(build(tmp_path, kind, precision) / GRAPH_FILE)
    first, node = ("MatMulBlockQuantizedFp8Weight", "layers.0/qkv"), "layers.0/attention_norm"
    if precision != "fp8":
        first, node = ("PagedAttention", "layers.0/attention"), "layers.0/qkv"
    assert f"InsertedPrecisionFreeCast_{node}" in error
    assert f"of operator ({first[0]}) in node ({first[1]}) is invalid" in error


@needs_schema
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("past_seqlens", onnx.TensorProto.INT64),
        ("attention_metadata", onnx.TensorProto.INT64),
        ("key_cache.1", onnx.TensorProto.FLOAT),
    ],
)
def test_onnx_runtime_checks_the_types(tmp_path: Path, name: str, dtype: int) -> None:
    path = build(tmp_path) / GRAPH_FILE
    model = onnx.load(path, load_external_data=False)
    (found,) = (each for each in model.graph.input if each.name == name)
    found.type.tensor_type.elem_type = dtype
    path.write_bytes(model.SerializeToString())
    assert f"of input parameter ({name})" in session_error(path)


@needs_schema
@pytest.mark.parametrize("precision", PRECISIONS)
def test_operators_have_the_inputs_and_attributes_that_their_schemas_name(
    tmp_path: Path, precision: Precision
) -> None:
    schemas = {
        each.name: each
        for each in ort_state.get_all_operator_schema()
        if each.domain == "com.microsoft"
    }
    graph = onnx.load(build(tmp_path, "qwen3", precision) / GRAPH_FILE, load_external_data=False)
    found = set()
    for node in graph.graph.node:
        if node.domain != "com.microsoft":
            continue
        schema = schemas[node.op_type]
        found.add(node.op_type)
        assert len(node.input) <= len(schema.inputs)
        assert len(node.output) <= len(schema.outputs)
        assert {each.name for each in node.attribute} <= set(schema.attributes)
    assert "PagedAttention" in found
    attention = next(node for node in graph.graph.node if node.op_type == "PagedAttention")
    named = dict(
        zip([each.name for each in schemas["PagedAttention"].inputs], attention.input, strict=False)
    )
    layer = "model.layers.0.self_attn"
    assert {name: value for name, value in named.items() if value} == {
        "query": "layers.0/qkv",
        "key_cache": "key_cache.0",
        "value_cache": "value_cache.0",
        "cumulative_sequence_length": "cumulative_sequence_length",
        "past_seqlens": "past_seqlens",
        "block_table": "block_table",
        "cos_cache": "rotary/cosines",
        "sin_cache": "rotary/sines",
        "q_norm_weight": f"{layer}.q_norm.weight",
        "k_norm_weight": f"{layer}.k_norm.weight",
        "attention_metadata": "attention_metadata",
    }


class Graph:
    """Advances sequences together, each with blocks of its own in no order."""

    def __init__(self, folder: Path) -> None:
        config = EngineConfig.load(folder)
        self._layout = CudaLayout.of(config)
        self._session = ReferenceSession(folder / GRAPH_FILE)
        self._tables = RNG.permutation(12).astype(np.int32).reshape(3, 4)
        self._lengths: dict[int, int] = {}
        self._binding = self._session.io_binding()
        shape = (12, self._layout.block_tokens, config.num_kv_heads, config.head_dim)
        self._vocab = config.vocab_size
        for layer in range(config.num_layers):
            for part in ("key", "value"):
                pool = np.full(shape, np.nan, np.float16)  # what was not written is not read
                self._binding.inputs[f"{part}_cache.{layer}"] = pool
                self._binding.outputs[f"{part}_cache.{layer}.out"] = pool

    def step(self, batch: list[tuple[int, list[int]]]) -> Array:
        """The logits after the last token of each, float32 ``[len(batch), vocab]``."""
        counts = [len(tokens) for _, tokens in batch]
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        lengths = np.array([self._lengths.get(sequence, 0) for sequence, _ in batch], np.int32)
        tables = self._tables[[sequence for sequence, _ in batch]]
        ids = np.array([token for _, tokens in batch for token in tokens], np.int64)
        packed = PackedBatch(starts, lengths, np.zeros_like(lengths), tables)
        step = Packed(ids, (starts[1:] - 1).astype(np.int64), packed)
        for name, value in feeds(step).items():
            self._binding.bind_cpu_input(name, value)
        logits = np.zeros((len(batch), self._vocab), np.float32)
        tokens = np.zeros(len(batch), np.int64)
        self._binding.outputs.update(logits=logits, tokens=tokens)
        self._session.run_with_iobinding(self._binding)
        np.testing.assert_array_equal(tokens, logits.argmax(axis=1))
        for (sequence, _), count in zip(batch, counts, strict=True):
            self._lengths[sequence] = self._lengths.get(sequence, 0) + count
        return logits


def relative_error(actual: Array, expected: Array) -> float:
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


@cache
def expected_logits(kind: str, precision: Precision) -> list[NDArray[np.float64]]:
    """By the reference in float64, with the weights that the graph holds."""
    config, tensors = make_config(kind), make_tensors(make_config(kind), "bf16")
    if precision != "fp16":
        tensors["lm_head.weight"] = tensors.get(
            "lm_head.weight", tensors["model.embed_tokens.weight"]
        )
        tensors = {
            name: ROUNDED[precision](tensor)
            if name.endswith(("_proj.weight", "lm_head.weight"))
            else tensor
            for name, tensor in tensors.items()
        }
        config["tie_word_embeddings"] = False
    return [reference.logits(config, tensors, tokens) for tokens in TOKENS]


def in_int4(tensor: NDArray[Any]) -> NDArray[np.float64]:
    return dequantize(quantize_int4(tensor.astype(np.float32), whole=True), tensor.shape[1])


def in_fp8(tensor: NDArray[Any]) -> NDArray[np.float64]:
    values, scales = quantize_float8(tensor.astype(np.float32))
    spread = np.repeat(scales, FLOAT8_BLOCK_SIZE, axis=1)[:, : tensor.shape[1]]
    return values.astype(np.float64) * spread


ROUNDED = {"int4": in_int4, "fp8": in_fp8}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_the_references(tmp_path: Path, kind: str, precision: Precision) -> None:
    """Prompts whole and in chunks, decoding, and all of it in one step."""
    graph = Graph(build(tmp_path, kind, precision))
    expected = expected_logits(kind, precision)
    at = [0, 0, 0]
    for counts in ([60, 0, 0], [0, 7, 0], [0, 13, 33], [0, 1, 6], [0, 0, 1]):
        batch = [
            (sequence, TOKENS[sequence][at[sequence] : at[sequence] + count])
            for sequence, count in enumerate(counts)
            if count
        ]
        logits = graph.step(batch)
        for (sequence, tokens), actual in zip(batch, logits, strict=True):
            at[sequence] += len(tokens)
            assert relative_error(actual, expected[sequence][at[sequence] - 1]) < 0.01


def test_blocks_follow_one_another(tmp_path: Path) -> None:
    """A sequence of more than one block, whose blocks lie anywhere."""
    tokens = RNG.integers(3, 101, 600).tolist()
    graph = Graph(build(tmp_path, max_position_embeddings=1024))
    config = make_config("llama", max_position_embeddings=1024)
    expected = reference.logits(config, make_tensors(config, "bf16"), tokens)
    for start, end in ((0, 250), (250, 599), (599, 600)):
        (actual,) = graph.step([(1, tokens[start:end])])
        assert relative_error(actual, expected[end - 1]) < 0.01


def test_longrope_has_the_long_factors_for_every_sequence(tmp_path: Path) -> None:
    scaling = {
        "type": "longrope",
        "short_factor": [1.0 + index / 10 for index in range(8)],
        "long_factor": [1.5 + index for index in range(8)],
    }
    changes: dict[str, Any] = {"partial_rotary_factor": 1.0, "rope_scaling": scaling}
    folder = build(tmp_path, "phi3-long", **changes)
    assert EngineConfig.load(folder).short_context == 0
    config = make_config("phi3-long", **changes)
    tokens = RNG.integers(3, 101, 30).tolist()
    expected = reference.logits(config, make_tensors(config, "bf16"), tokens)
    (actual,) = Graph(folder).step([(1, tokens)])
    assert relative_error(actual, expected[-1]) < 0.01
    short = reference.logits(config, make_tensors(config, "bf16"), tokens, len(tokens))
    assert relative_error(actual, short[-1]) > 0.02


def test_a_tied_embedding_is_stored_once(tmp_path: Path) -> None:
    sizes = {
        kind: (build(tmp_path / kind, kind, vocab_size=4096) / WEIGHTS_FILE).stat().st_size
        for kind in ("llama", "llama-untied")
    }
    # A weight begins on a page of 4096 bytes.
    assert (sizes["llama-untied"] - sizes["llama"]) // 4096 == 4096 * 64 * 2 // 4096


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("gemma2", "Gemma2ForCausalLM is not supported for CUDA: its residual stream outgrows"),
        ("phi3-long", "a rotary embedding of 8 elements of a head is not supported for CUDA"),
    ],
)
def test_what_the_graph_cannot_compute_is_refused(tmp_path: Path, kind: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        build(tmp_path, kind)
    assert not (tmp_path / "1").exists()


def test_weights_beyond_float16_are_refused(tmp_path: Path) -> None:
    config = make_config()
    tensors = make_tensors(config)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = 70_000
    checkpoint = write_checkpoint(tmp_path / "checkpoint", config, tensors)
    with pytest.raises(CheckpointError, match=r"layers.1.mlp.up_proj.weight has weights beyond"):
        build_engine(checkpoint, tmp_path / "1", "fp16")
    assert not (tmp_path / "1").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "int8"}, "int8 weights are not for cuda: take fp16 or fp8 or int4"),
        ({"precision": "fp32"}, "fp32 weights are not for cuda: take fp16 or fp8 or int4"),
        (
            {"precision": "fp16", "execution_provider": "cpu"},
            "fp16 weights are not for cpu: take fp32 or int8 or int8_block or int4",
        ),
        (
            {"precision": "fp16", "kv_cache_dtype": "int8"},
            "a kv_cache_dtype of int8 is not for cuda: take float16",
        ),
        ({"precision": "int4", "int4_method": "gptq"}, "int4_method is gptq, which is for cpu"),
    ],
)
def test_settings_that_do_not_go_together(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint")
    with pytest.raises(BuildError, match=message):
        build_engine(checkpoint, tmp_path / "1", **{"execution_provider": "cuda", **settings})


def test_a_rebuild_for_another_provider_leaves_nothing_behind(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint")
    files: Callable[[], set[str]] = lambda: {path.name for path in (tmp_path / "1").iterdir()}  # noqa: E731
    build_engine(checkpoint, tmp_path / "1", "int4")
    first = files()
    build_engine(checkpoint, tmp_path / "1", "fp16")
    assert files() & {"rotary.npy", "tensors.json", "segment_00.onnx"} == set()
    build_engine(checkpoint, tmp_path / "1", "int4")
    assert files() == first
