"""Scaled channels compute what they did, and no weight is on the grid that it was on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as Type
from numpy.typing import NDArray

from benchmarks.real_checkpoint import write_scaled
from build.checkpoint import Checkpoint
from build.from_gguf import unpack
from build.quantize import Int4Rows, quantize_int4
from tests.build import reference
from tests.build.from_gguf.gguf_files import write_gguf


def test_a_model_off_the_grid_computes_the_same(tmp_path: Path) -> None:
    config, _ = write_gguf(tmp_path / "tiny.gguf", "llama", Type.Q4_1)
    write_scaled(tmp_path / "tiny.gguf", tmp_path / "scaled.gguf")
    logits, rounded = [], []
    for name in ("tiny", "scaled"):
        unpack(tmp_path / f"{name}.gguf", tmp_path / name)
        with Checkpoint(tmp_path / name) as checkpoint:
            tensors = {each: checkpoint.tensor(each) for each in checkpoint.names()}
        logits.append(reference.logits(config, tensors, list(range(5, 45))))
        matrix = tensors["model.layers.1.mlp.down_proj.weight"].astype(np.float32)
        rounded.append((matrix, quantize_int4(matrix)))
    np.testing.assert_allclose(logits[1], logits[0], atol=0.01 * np.abs(logits[0]).max())
    on_grid, off_grid = (np.abs(_held(rows) - matrix).max() for matrix, rows in rounded)
    assert on_grid < 1e-6 < 1e-4 < off_grid


def _held(rows: Int4Rows) -> NDArray[np.float32]:
    levels = np.stack([rows.packed & 15, rows.packed >> 4], axis=-1).astype(np.float32)
    blocks = levels.reshape(*rows.scales.shape, 32)
    held = (blocks - 8) * rows.scales[..., None] + rows.middles[..., None]
    whole: NDArray[np.float32] = held.reshape(len(held), -1)
    return whole
