"""Sizes are those of published checkpoints, and what the CPU engine really takes."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from build.build_errors import CheckpointError
from build.checkpoint import Checkpoint
from build.decoder import describe_decoder
from build.engine_folder import build_engine
from build.sizing import Fit, Memory, ModelShape, WeightFormat, fits, main
from tests.build.builds import make_model, make_plan_of
from tests.build.checkpoints import KINDS, make_checkpoint

ROOT = Path(__file__).parents[2]

LLAMA_2_70B = ModelShape(8192, 28672, 80, 64, 8, 128, 32_000, 4096, tied=False)
LLAMA_3_8B = ModelShape(4096, 14336, 32, 32, 8, 128, 128_256, 8192, tied=False)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_checkpoint_is_counted_to_the_parameter(tmp_path, kind):
    folder = make_checkpoint(tmp_path, kind)
    with Checkpoint(folder) as checkpoint:
        shape = ModelShape.from_config(checkpoint.config)
        names = checkpoint.names()
        stored = sum(math.prod(checkpoint.shape(name)) for name in names)
        context = describe_decoder(checkpoint).context_length
    assert shape.parameters == stored
    assert shape.context_length == context


@pytest.mark.parametrize(
    ("shape", "weights", "published"),
    [
        # The checkpoints' own total_size, and the size of the files of the AWQ release.
        (LLAMA_2_70B, "fp16", 137.95e9),
        (LLAMA_3_8B, "bf16", 16.06e9),
        (LLAMA_2_70B, "int4_awq", 36.61e9),
        # The figures that everybody quotes.
        (LLAMA_2_70B, "fp16", 140e9),
        (LLAMA_2_70B, "int4_awq", 35e9),
        (LLAMA_2_70B, "fp8", 70e9),
    ],
)
def test_published_sizes(shape, weights, published):
    assert shape.weights_bytes(weights) == pytest.approx(published, rel=0.05)


def test_published_sizes_to_a_thousandth():
    assert LLAMA_2_70B.parameters == 68_976_648_192
    assert LLAMA_2_70B.weights_bytes("fp16") == pytest.approx(137_953_296_384, rel=1e-3)
    assert LLAMA_3_8B.parameters == 8_030_261_248


def test_a_tied_table_in_eight_bits_is_its_blocks_in_the_file():
    """Beside the products' own, with two scales and sums of 16 bits for 32 weights."""
    shape = replace(LLAMA_3_8B, tied=True)
    table = shape.vocab_size * shape.hidden_size
    cases: tuple[tuple[WeightFormat, WeightFormat | None], ...]
    cases = ("int8_block", None), ("int4", "int8_block")
    for weights, head in cases:
        tied = shape.weights_bytes(weights, head)
        assert LLAMA_3_8B.weights_bytes(weights, head) - tied == table * 2 - table * 36 // 32
    assert shape.weights_bytes("int4") == LLAMA_3_8B.weights_bytes("int4")


def test_keys_and_values_are_counted_in_whole_blocks():
    # Llama 3 8B: 128 KiB a token in 16 bits, as its grouped heads are said to take.
    assert LLAMA_3_8B.kv_bytes_per_token("fp16") == 128 << 10
    assert LLAMA_3_8B.kv_cache_bytes("fp16", 2, 17) == 2 * 32 * (128 << 10)


def whole(shape: ModelShape, weights: Any, sequences: int = 16, context: int = 4096) -> Memory:
    return Memory(
        weights_bytes=shape.weights_bytes(weights),
        kv_cache_bytes=shape.kv_cache_bytes("fp16", sequences, context),
        activations_bytes=shape.activations_bytes(8192, sequences, 2),
    )


def fit(shape: ModelShape, weights: Any, gpu: str) -> Fit:
    return next(each for each in fits(shape, whole(shape, weights)) if each.gpu == gpu)


def test_a_70b_needs_two_large_gpus_in_16_bits_and_one_in_four():
    assert fit(LLAMA_2_70B, "fp16", "H100-80GB").tensor_parallel == 4
    assert fit(LLAMA_2_70B, "fp16", "H200").gpus == 2
    assert fit(LLAMA_2_70B, "int4_awq", "H100-80GB").gpus == 1
    assert fit(LLAMA_3_8B, "bf16", "L40S").gpus == 1


def test_what_fits_nowhere_is_left_out():
    memory = whole(LLAMA_2_70B, "fp16", sequences=4096)
    assert "L4" not in {each.gpu for each in fits(LLAMA_2_70B, memory)}


def test_heads_that_do_not_divide_are_not_split():
    shape = ModelShape(4608, 18432, 40, 36, 4, 128, 49_152, 4096, tied=False)
    assert all(36 % each.tensor_parallel == 0 for each in fits(shape, whole(shape, "fp16")))


@pytest.mark.parametrize("value", [None, 0, -1, 2.5, "many", True])
def test_a_config_that_gives_no_size_is_refused_by_name(value):
    config = {"hidden_size": value, "num_attention_heads": 4}
    with pytest.raises(CheckpointError, match="hidden_size"):
        ModelShape.from_config(config)


def test_the_command_line(tmp_path, capsys):
    checkpoint = make_model(tmp_path / "model")
    assert main([str(checkpoint), "--weights", "int8", "--sequences", "4"]) == 0
    out = capsys.readouterr().out
    assert "4 sequences of 512 tokens" in out
    assert "| H100-80GB | 1 | 1 | 1 |" in out
    assert main([str(tmp_path / "nowhere.json")]) == 1
    assert "nowhere.json" in capsys.readouterr().err


def test_the_plan_uses_the_same_formulas(tmp_path):
    checkpoint = make_model(tmp_path / "model")
    plan = make_plan_of(checkpoint, tmp_path, target={"weights": "int8"})
    shape = ModelShape.from_config(json.loads((checkpoint / "config.json").read_text()))
    assert plan.memory.weights_bytes == replace(shape, dtype_bytes=4).weights_bytes("int8")
    assert plan.memory.kv_cache_bytes == shape.kv_cache_bytes("int8", 32, 512)


# Loads a tiny engine, so that the libraries are there, and then the one to measure; fills the KV
# cache; prints how much the resident memory grew.
CONTEXT = 248


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(
        tmp_path_factory.mktemp("large") / "model",
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=5,
        num_attention_heads=16,
        num_key_value_heads=16,
        vocab_size=16_384,
        max_position_embeddings=CONTEXT,
        dtype="bf16",
    )


_MEASURE = """
import sys
from dataclasses import replace
from pathlib import Path
import numpy as np
from python_backend.engine.onnx_engine import OnnxEngine
from python_backend.engine.sequence import SamplingParams

def resident():
    status = Path("/proc/self/smaps_rollup").read_text().split()
    return int(status[status.index("Rss:") + 1]) * 1024

def fill(folder, sequences, tokens, kv_cache_bytes):
    engine = OnnxEngine(Path(folder), max_sequences=sequences, kv_cache_bytes=kv_cache_bytes)
    rng = np.random.default_rng(1)
    prompts = [rng.integers(0, engine.config.vocab_size, tokens - 8, dtype=np.int32)
               for _ in range(sequences)]
    engine.generate(prompts, SamplingParams(max_tokens=8))
    return engine

tiny, folder, sequences, tokens, kv_cache_bytes = sys.argv[1:]
first = fill(tiny, 1, 64, 1 << 20)
before = resident()
engine = fill(folder, int(sequences), int(tokens), int(kv_cache_bytes))
print(resident() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["fp32", "int8", "int4"])
def test_the_cpu_engine_takes_what_was_planned(tmp_path, large, weights):
    sequences = 8
    tiny = make_model(tmp_path / "tiny")
    model = shutil.copytree(large, tmp_path / "model", copy_function=os.link)
    limits = {"max_num_sequences": sequences}
    memory = make_plan_of(model, tmp_path, target={"weights": weights}, limits=limits).memory
    for folder in (tiny, model):
        build_engine(folder, folder / "engine", weights)
    arguments = [tiny / "engine", model / "engine", sequences, CONTEXT, memory.kv_cache_bytes]
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) == pytest.approx(memory.total_bytes, rel=0.05)
