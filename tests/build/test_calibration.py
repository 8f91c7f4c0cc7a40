"""Calibration of an int8 KV cache finds the channels that stand out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from build.calibration import even_factors
from build.engine_folder import build_engine
from build.recipe import CALIBRATION_TEXT
from contract.errors import EngineError
from python_backend.engine.engine_config import SMOOTHING_FILE, WEIGHTS_FILE, EngineConfig, KVDtype
from python_backend.engine.onnx_engine import OnnxEngine
from tests.build.builds import make_model
from tests.build.checkpoints import KINDS, make_config, make_tensors, write_checkpoint

DEMO = Path("build/demo/checkpoint")


def test_factors_make_queries_and_keys_equally_uneven():
    queries = np.array([[[1, 4, 0, 2]]], np.float32)
    keys = np.array([[[100, 4, 7, 0]]], np.float32)
    factors = even_factors(queries, keys)
    np.testing.assert_allclose(factors, [[[10, 1, 1, 1]]])
    np.testing.assert_allclose((queries * factors)[..., :2], (keys / factors)[..., :2])


def test_an_outlying_channel_is_found(tmp_path):
    """Layer 1's first pair of key channels is fifty times what it was."""
    config = make_config(max_position_embeddings=512, vocab_size=2048)
    tensors = make_tensors(config)
    rows = tensors["model.layers.1.self_attn.k_proj.weight"]
    rows[[0, 8]] *= 50
    checkpoint = write_checkpoint(tmp_path / "checkpoint", config, tensors)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (checkpoint / name).write_bytes((DEMO / name).read_bytes())
    build_engine(checkpoint, tmp_path / "1", "int8")
    factors = np.load(tmp_path / "1" / SMOOTHING_FILE)
    assert factors.shape == (2, 2, 16)
    others = np.delete(factors[1, 0], [0, 8])
    assert (factors[1, 0, [0, 8]] > 3 * others.max()).all()
    assert factors[0].max() < 3 * np.median(factors[0])


def test_longrope_is_calibrated_by_the_factors_of_texts_of_that_length(tmp_path):
    """In keys and in weights; the text is cut into 256 tokens, within the original 512."""
    scaling = KINDS["phi3-long"]["rope_scaling"]
    long = {**scaling, "short_factor": scaling["long_factor"]}
    changes = {"max_position_embeddings": 1024, "original_max_position_embeddings": 512}

    def built(name: str, scaling: dict[str, Any], context_length: int | None) -> tuple[bytes, ...]:
        checkpoint = make_model(tmp_path / name, "phi3-long", rope_scaling=scaling, **changes)
        folder = tmp_path / f"{name} built"
        build_engine(
            checkpoint,
            folder,
            "int4",
            context_length,
            calibration_text=CALIBRATION_TEXT,
            int4_method="gptq",
        )
        return tuple((folder / file).read_bytes() for file in (SMOOTHING_FILE, WEIGHTS_FILE))

    both = built("both", scaling, None)
    assert both == built("short", scaling, 512)
    pairs = zip(both, built("long", long, None), strict=True)
    assert all(one != other for one, other in pairs)


def test_the_cache_is_what_the_engine_was_built_for(tmp_path):
    text = tmp_path / "text"
    text.write_text("What is the capital of France?", encoding="utf-8")
    build_engine(DEMO, tmp_path / "1", "int8", kv_cache_dtype="float32")
    build_engine(DEMO, tmp_path / "2", "fp32", kv_cache_dtype="int8", calibration_text=text)
    cases: list[tuple[str, KVDtype, KVDtype]] = [
        ("1", "float32", "int8"),
        ("2", "int8", "float32"),
    ]
    for version, built, other in cases:
        folder = tmp_path / version
        assert EngineConfig.load(folder).kv_cache_dtype == built
        assert OnnxEngine(folder).layout.kv_dtype == built
        assert OnnxEngine(folder, kv_cache_dtype=other).layout.kv_dtype == other
    assert not (tmp_path / "1" / SMOOTHING_FILE).exists()


def test_without_kernels_auto_is_float32_and_int8_is_refused(tmp_path, monkeypatch):
    build_engine(DEMO, tmp_path / "1", "int8")
    monkeypatch.setenv("TRIREME_KERNELS", "none")
    assert OnnxEngine(tmp_path / "1").layout.kv_dtype == "float32"
    with pytest.raises(EngineError, match="kv_cache_dtype int8 needs a processor"):
        OnnxEngine(tmp_path / "1", kv_cache_dtype="int8")


def test_factors_of_another_engine_are_refused(tmp_path):
    build_engine(DEMO, tmp_path / "1", "int8")
    np.save(tmp_path / "1" / SMOOTHING_FILE, np.zeros((2, 2), np.float32))
    with pytest.raises(EngineError, match=r"kv_smoothing\.npy is not this engine's"):
        OnnxEngine(tmp_path / "1")
