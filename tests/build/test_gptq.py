"""GPTQ: results change less than with plain rounding; what it is told of the inputs is right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from build.activations import ProductInputs
from build.build_errors import BuildError
from build.checkpoint import Checkpoint
from build.decoder import describe_decoder
from build.engine_folder import build_engine
from build.gptq import Gptq
from build.quantize import Int4Method, quantize_int4, search_int4
from python_backend.engine.layers import GatedFeedForward
from tests.build import reference
from tests.build.checkpoints import KINDS, make_checkpoint, make_config, make_tensors
from tests.build.packed import PackedEngine
from tests.build.test_quantize import dequantize

SAMPLES = [[5, 17, 93, 2, 44, 61, 8, 30, 99, 12, 71, 3] * 2, [88, 4, 19, 23, 50]]


@pytest.mark.parametrize("columns", [64, 71, 128])
def test_results_change_less_than_with_plain_rounding(columns):
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((columns // 4, columns))
    inputs = rng.standard_normal((500, columns // 4)) @ mixing  # a few causes move all columns
    inputs = (inputs + 0.1 * rng.standard_normal(inputs.shape)).astype(np.float32)
    rows = rng.standard_normal((40, columns), dtype=np.float32)
    gptq = Gptq(inputs.T @ inputs)
    change = {
        name: np.linalg.norm(inputs @ (dequantize(quantized, columns) - rows).T)
        for name, quantized in {
            "rtn": quantize_int4(rows),
            "k_quant": search_int4(rows),
            "gptq": gptq.quantize(rows),
        }.items()
    }
    assert change["gptq"] < 0.5 * min(change["rtn"], change["k_quant"])
    # A row is rounded alone as among others, but for the rounding of sums.
    alone, among = gptq.quantize(rows[7:8]), gptq.quantize(rows)
    np.testing.assert_allclose(alone.scales[0], among.scales[7], rtol=1e-5)


def test_inputs_that_never_come_are_rounded_plainly():
    rows = np.random.default_rng(0).standard_normal((8, 64), dtype=np.float32)
    silent = Gptq(np.zeros((64, 64), np.float32)).quantize(rows)
    np.testing.assert_array_equal(silent.packed, search_int4(rows).packed)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "gemma2"])
def test_the_moments_are_those_of_the_inputs(tmp_path, kind):
    """Of the first and the last product, whose inputs the reference knows."""
    config = make_config(kind)
    tensors = make_tensors(config)
    with Checkpoint(make_checkpoint(tmp_path, kind)) as checkpoint:
        spec = describe_decoder(checkpoint)
        view = spec.tensors(checkpoint)
        ids = [np.array(sample, np.int64) for sample in SAMPLES]
        inputs = ProductInputs(spec, view, ids)
        segments = [inputs.next_segment() for _ in range(len(spec.layers) + 1)]
    table = tensors["model.embed_tokens.weight"]
    x = table[np.concatenate(SAMPLES)]
    x = x / np.sqrt((x * x).mean(axis=1, keepdims=True) + config["rms_norm_eps"])
    x = x * tensors["model.layers.0.input_layernorm.weight"]
    np.testing.assert_allclose(
        segments[0][spec.layers[0].attention.qkv.weights[0]], x.T @ x, rtol=1e-3, atol=1e-3
    )
    head = tensors.get("lm_head.weight", table).astype(np.float64)
    logits = np.concatenate([reference.logits(config, tensors, sample) for sample in SAMPLES])
    moments = segments[-1][spec.decoder.lm_head.name]
    np.testing.assert_allclose(head @ moments @ head.T, logits.T @ logits, rtol=1e-3, atol=1e-1)
    layer = spec.layers[0]
    assert isinstance(layer.feed_forward, GatedFeedForward)
    pair = layer.feed_forward.gate_up
    wanted = (layer.attention.output, pair.first, pair.second, layer.feed_forward.down)
    assert {each.name for each in wanted} <= segments[1].keys()
    assert segments[1][pair.first.name] is segments[1][pair.second.name]


def with_tokenizer(folder: Path) -> Path:
    words = {f"w{index}": index for index in range(101)}
    tokenizer = Tokenizer(models.WordLevel(words, "w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def distance(kind: str, folder: Path, method: Int4Method) -> float:
    """How far an int4 engine's logits are from the checkpoint's, on the calibration text."""
    checkpoint = with_tokenizer(make_checkpoint(folder / "checkpoint", kind))
    text = folder / "text"
    text.write_text("\n".join(" ".join(f"w{token}" for token in sample) for sample in SAMPLES))
    build_engine(checkpoint, folder / method, "int4", int4_method=method, calibration_text=text)
    config = make_config(kind)
    tokens = [token for sample in SAMPLES for token in sample]
    expected = reference.logits(config, make_tensors(config), tokens)
    engine = PackedEngine(folder / method)
    actual = np.concatenate([engine.step([(0, [token])]) for token in tokens])
    return float(np.linalg.norm(actual - expected))


@pytest.mark.parametrize("kind", ["llama-untied", "qwen3", "phi3", "gemma2", "smollm3"])
def test_a_gptq_engine_is_nearer_to_its_checkpoint(tmp_path, kind):
    assert distance(kind, tmp_path, "gptq") < 0.8 * distance(kind, tmp_path, "rtn")


def test_methods_that_cannot_be_are_refused(tmp_path):
    checkpoint = make_checkpoint(tmp_path / "checkpoint")
    with pytest.raises(BuildError, match="gptq, which needs a calibration_text"):
        build_engine(checkpoint, tmp_path / "engine", "int4", int4_method="gptq")
    with pytest.raises(BuildError, match="int4_method is k_quant, but the weights are in int8"):
        build_engine(checkpoint, tmp_path / "engine", "int8", int4_method="k_quant")
