"""Smoothing: the same decoder, whose products round better."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from build.build_errors import BuildError, RecipeError
from build.checkpoint import Checkpoint
from build.decoder import describe_decoder
from build.engine_folder import build_engine
from build.recipe import make_recipe
from build.smoothing import smoothed
from tests.build import reference
from tests.build.checkpoints import (
    KINDS,
    make_checkpoint,
    make_config,
    make_tensors,
    write_checkpoint,
)
from tests.build.packed import PackedEngine

SAMPLES = [np.array([5, 17, 93, 2, 44, 61, 8, 30, 99, 12, 71, 3] * 2), np.array([88, 4, 19, 23])]
TOKENS = [7, 80, 33, 5, 61, 2, 90, 14, 55]


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_same_decoder(tmp_path: Path, kind: str) -> None:
    with Checkpoint(make_checkpoint(tmp_path, kind)) as checkpoint:
        spec = describe_decoder(checkpoint)
        tensors = smoothed(spec, spec.tensors(checkpoint), SAMPLES)
        names = spec.decoder.tensor_shapes()
        found = {name: tensors.tensor(name) for name in names}
        for name, shape in names.items():
            assert tensors.shape(name) == found[name].shape == shape
            assert tensors.dtype(name) == found[name].dtype
        changed = [
            name for name in names if (found[name] != spec.tensors(checkpoint).tensor(name)).any()
        ]
    assert len(changed) == len(spec.layers) * (2 + 3 + 2)  # norms; queries to values, gate and up
    config = make_config(kind)
    expected = reference.logits(config, make_tensors(config), TOKENS)
    logits = reference.logits(config, _packed(kind, found), TOKENS)
    np.testing.assert_allclose(logits, expected, atol=2e-4)


def _packed(kind: str, tensors: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """As the reference takes them: Phi-3's in one matrix."""
    if not kind.startswith("phi3"):
        return tensors
    joined = dict(tensors)
    for layer in range(2):
        for whole, parts in (
            (f"model.layers.{layer}.self_attn.qkv_proj", ("q_proj", "k_proj", "v_proj")),
            (f"model.layers.{layer}.mlp.gate_up_proj", ("gate_proj", "up_proj")),
        ):
            folder = whole.rpartition(".")[0]
            rows = [joined.pop(f"{folder}.{part}.weight") for part in parts]
            joined[f"{whole}.weight"] = np.concatenate(rows)
    return joined


def test_what_stands_out_no_longer_hides_the_rest(tmp_path: Path) -> None:
    """A few channels are a hundred times larger, and the matrices behind expect it."""
    config = make_config()
    tensors = make_tensors(config)
    loud = [3, 40]
    for name, values in tensors.items():
        if name.endswith("layernorm.weight"):
            values[loud] *= 100
        elif any(part in name for part in ("q_proj", "k_proj", "v_proj", "gate", "up_proj")):
            values[:, loud] /= 100
    checkpoint = write_checkpoint(tmp_path / "checkpoint", config, tensors)
    expected = reference.logits(config, tensors, TOKENS)
    errors = {}
    for smoothing in (False, True):
        folder = tmp_path / f"engine-{smoothing}"
        build_engine(checkpoint, folder, "int8", kv_cache_dtype="float32", smoothing=smoothing)
        found = PackedEngine(folder).step([(0, TOKENS)], every_token=True)
        errors[smoothing] = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert errors[True] < 0.06
    assert errors[False] > 5 * errors[True]


def test_it_is_for_int8_inputs(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="smoothing is for int8 inputs, which fp32"):
        build_engine(make_checkpoint(tmp_path), tmp_path / "engine", "fp32", smoothing=True)
    target = {"weights": "fp32", "smoothing": True}
    with pytest.raises(RecipeError, match="smoothing is for int8 activations"):
        make_recipe({"name": "a", "checkpoint": "m", "target": target}, "here")
