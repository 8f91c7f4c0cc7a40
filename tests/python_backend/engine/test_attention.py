"""Paged attention: the kernel computes what numpy does, and each row by itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from contract.errors import EngineError
from python_backend.engine.attention import KernelAttention, Layout, NumpyAttention, PackedBatch
from python_backend.engine.engine_config import ENGINE_FILE, EngineConfig, KVDtype
from python_backend.engine.kernels import load_kernels
from python_backend.engine.layers import Heads
from tests.python_backend.engine.descriptions import decoder, heads

CONTEXT, BLOCKS, TABLE = 200, 64, 12

LAYOUTS = [
    Layout(num_layers=2, num_heads=14, num_kv_heads=2, head_dim=64),
    Layout(num_layers=2, num_heads=8, num_kv_heads=4, head_dim=32),
    Layout(num_layers=1, num_heads=4, num_kv_heads=4, head_dim=16),
    Layout(num_layers=1, num_heads=32, num_kv_heads=8, head_dim=128),
    Layout(num_layers=1, num_heads=20, num_kv_heads=1, head_dim=48),
]


def plain(layout: Layout, **more: Any) -> Heads:
    return heads(layout.num_heads, layout.num_kv_heads, layout.head_dim, **more)


# How the two layers of the second layout attend.
CONFIGS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (
        {"scale": 0.2, "logit_softcap": 1.5, "window": 40},
        {"scale": 0.2, "logit_softcap": 1.5},
    ),
    ({"window": 1, "rotary_dim": 10}, {"window": 16, "rotary_dim": 10}),
    ({}, {"rotary_dim": 0, "window": 33}),
]


def rotary(head_dim: int) -> NDArray[np.float32]:
    """Two embeddings, ``CONTEXT`` rows of each; the other's waves are thrice as fast."""
    angles = np.arange(CONTEXT)[:, None] / 10000 ** (np.arange(0, head_dim, 2) / head_dim)
    angles = np.concatenate([angles, 3 * angles])
    return np.stack([np.cos(angles), np.sin(angles)]).astype(np.float32)


def kernel(
    layout: Layout,
    pool: NDArray[Any],
    threads: int = 2,
    layers: Sequence[Heads] | None = None,
    smoothing: NDArray[np.float32] | None = None,
) -> KernelAttention:
    kernels = load_kernels(threads)
    assert kernels is not None, "these tests need kernels"
    layers = layers or [plain(layout)] * layout.num_layers
    turned = rotary(max(each.rotary_dim for each in layers))
    return KernelAttention(kernels, layout, pool, turned, layers, smoothing)


def random_qkv(layout: Layout, tokens: int, seed: int) -> NDArray[np.float32]:
    width = (layout.num_heads + 2 * layout.num_kv_heads) * layout.head_dim
    rng = np.random.default_rng(seed)
    return rng.standard_normal((tokens, width), dtype=np.float32)


def output_of(layout: Layout, tokens: int) -> NDArray[np.float32]:
    return np.full((tokens, layout.num_heads * layout.head_dim), np.nan, dtype=np.float32)


CASES = [
    *((layout, ({},) * layout.num_layers) for layout in LAYOUTS),
    *((LAYOUTS[1], each) for each in CONFIGS),
]


@pytest.mark.parametrize(("kv_dtype", "error"), [("float32", 1e-5), ("int8", 0.1)])
@pytest.mark.parametrize(("layout", "config"), CASES, ids=str)
def test_the_kernel_agrees_with_numpy_and_each_token_with_itself_alone(
    layout: Layout, config: tuple[dict[str, Any], ...], kv_dtype: KVDtype, error: float
) -> None:
    """Over prompts, chunks of prompts and single tokens of four sequences, in scattered blocks."""
    layers = [plain(layout, **each) for each in config]
    reference_pool = np.zeros((BLOCKS, *layout.block_shape), dtype=np.float32)
    layout = replace(layout, kv_dtype=kv_dtype)
    pool = np.zeros((BLOCKS, *layout.block_shape), dtype=layout.dtype)
    pool.view(np.uint8)[:] = 0xFF  # not a number: what was never written must not be read
    together, reference = (
        kernel(layout, pool, layers=layers),
        NumpyAttention(
            layout, reference_pool, rotary(max(each.rotary_dim for each in layers)), layers
        ),
    )
    tables = np.random.default_rng(0).permutation(BLOCKS)[: 4 * TABLE].astype(np.int32)
    tables = tables.reshape(4, TABLE)
    lengths = np.zeros(4, dtype=np.int32)
    rotary_starts = np.array([0, CONTEXT, CONTEXT, 0], dtype=np.int32)
    for round_, counts in enumerate(([5, 37, 1, 100], [1, 1, 1, 1], [17, 1, 3, 2])):
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        batch = PackedBatch(starts, lengths.copy(), rotary_starts, tables)
        for layer in range(layout.num_layers):
            qkv = random_qkv(layout, int(starts[-1]), seed=10 * round_ + layer)
            output, expected = output_of(layout, len(qkv)), output_of(layout, len(qkv))
            together(layer, batch, qkv, output)
            reference(layer, batch, qkv, expected)
            np.testing.assert_allclose(output, expected, atol=error)
            assert np.abs(output - expected).mean() < error / 10
            alone = kernel(layout, pool.copy(), threads=1, layers=layers)
            for sequence, count in enumerate(counts):
                for token in range(count):
                    single = PackedBatch(
                        np.array([0, 1], dtype=np.int32),
                        lengths[sequence : sequence + 1] + token,
                        rotary_starts[sequence : sequence + 1],
                        tables[sequence : sequence + 1],
                    )
                    row = int(starts[sequence]) + token
                    one = output_of(layout, 1)
                    alone(layer, single, qkv[row : row + 1], one)
                    assert one[0].tobytes() == output[row].tobytes()
        lengths += np.array(counts, dtype=np.int32)


def test_smoothing_keeps_outlying_channels_from_drowning_the_others() -> None:
    """Some channels of the keys are a hundred times the others, as in Qwen2's."""
    layout = replace(LAYOUTS[0], kv_dtype="int8")
    outliers = np.ones((layout.num_layers, layout.num_kv_heads, layout.head_dim), np.float32)
    outliers[..., [3, 35]] = 100  # a pair that turns together
    qkv = random_qkv(layout, 60, seed=2).reshape(60, -1, layout.head_dim)
    qkv[:, :14] /= outliers[0].repeat(7, axis=0)
    qkv[:, 14:16] *= outliers[0]
    qkv = qkv.reshape(60, -1)
    batch = PackedBatch(
        np.array([0, 60], dtype=np.int32),
        np.zeros(1, dtype=np.int32),
        np.zeros(1, dtype=np.int32),
        np.arange(4, dtype=np.int32)[None],
    )
    expected = output_of(layout, 60)
    floats = np.zeros((4, *LAYOUTS[0].block_shape), np.float32)
    NumpyAttention(LAYOUTS[0], floats, rotary(64), [plain(layout)])(0, batch, qkv, expected)
    errors = []
    for smoothing in (None, outliers):
        output = output_of(layout, 60)
        pool = np.zeros((4, *layout.block_shape), np.uint8)
        kernel(layout, pool, smoothing=smoothing)(0, batch, qkv, output)
        errors.append(np.abs(output - expected).mean())
    assert 3 * errors[1] < errors[0]
    assert errors[1] < 0.01


def test_large_scores_do_not_overflow() -> None:
    layout = LAYOUTS[1]
    pool = np.zeros((BLOCKS, *layout.block_shape), dtype=np.float32)
    qkv = random_qkv(layout, 50, seed=1) * 30
    batch = PackedBatch(
        np.array([0, 50], dtype=np.int32),
        np.zeros(1, dtype=np.int32),
        np.zeros(1, dtype=np.int32),
        np.arange(4, dtype=np.int32)[None],
    )
    output, expected = output_of(layout, 50), output_of(layout, 50)
    kernel(layout, pool)(0, batch, qkv, output)
    NumpyAttention(layout, np.zeros_like(pool), rotary(32), [plain(layout)])(
        0, batch, qkv, expected
    )
    np.testing.assert_allclose(output, expected, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize(
    ("layer", "changes", "message"),
    [
        (1, {"window": -1}, "window"),
        (1, {"rotary_dim": 34}, "rotary_dim is more than the head_dim of 32"),
        (1, {"rotary_dim": 3}, "rotary_dim"),
        (0, {"rotary_dim": 10}, "different rotary_dim, but one table turns them"),
        (0, {"logit_softcap": 0}, "logit_softcap"),
        (0, {"num_kv_heads": 3}, "4 heads don't share 3 evenly"),
        (0, {"num_kv_heads": 1}, r"qkv or layers\.0\.output don't fit the heads"),
        (1, {"head_dim": 64}, r"qkv or layers\.1\.output don't fit the heads"),
        (1, {"num_heads": 8}, r"qkv or layers\.1\.output don't fit the heads"),
    ],
)
def test_an_engine_whose_attention_does_not_fit_it_is_refused(
    tmp_path: Path, layer: int, changes: dict[str, Any], message: str
) -> None:
    engine = EngineConfig(
        architecture="LlamaForCausalLM",
        precision="fp32",
        context_length=16,
        end_token_ids=(1,),
        decoder=decoder(*[heads(4, 2, 32)] * 2),
    ).model_dump()
    EngineConfig.model_validate(engine)
    engine["decoder"]["layers"][layer]["attention"]["heads"].update(changes)
    (tmp_path / ENGINE_FILE).write_text(json.dumps(engine))
    with pytest.raises(EngineError, match=message):
        EngineConfig.load(tmp_path)
