"""The engine folder: what it holds, that it is reproducible, and that it survives interruptions."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from build.build_errors import BuildError, CheckpointError, RecipeError
from build.engine_folder import build_engine
from build.recipe import make_recipe
from build.segments import Segment
from python_backend.engine.engine_config import EngineConfig, ExecutionProvider, Precision
from tests.build.checkpoints import make_checkpoint
from tests.build.packed import PackedEngine
from tests.python_backend.engine.descriptions import heads

ROOT = Path(__file__).parents[2]
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8", "int8_block", "int4")


@pytest.fixture
def checkpoint(tmp_path):
    return make_checkpoint(tmp_path / "checkpoint")


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def add_json(folder: Path, file: str, **settings: Any) -> None:
    path = folder / file
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**known, **settings}))


def test_a_head_in_eight_bits_is_for_int4_on_a_cpu(tmp_path, checkpoint):
    targets: tuple[tuple[Precision, ExecutionProvider], ...] = (
        ("int8", "cpu"),
        ("fp32", "cpu"),
        ("int4", "cuda"),
    )
    for precision, provider in targets:
        with pytest.raises(BuildError, match="it may be int8_block beside int4 weights, for a CPU"):
            build_engine(
                checkpoint,
                tmp_path / "1",
                precision,
                execution_provider=provider,
                head="int8_block",
            )
        target = {"weights": precision, "execution_provider": provider, "head": "int8_block"}
        with pytest.raises(RecipeError, match="it may be int8_block beside int4 weights"):
            make_recipe({"name": "a", "checkpoint": "m", "target": target}, "here")


def test_an_engine_folder_is_complete(tmp_path, checkpoint):
    (checkpoint / "chat_template.jinja").write_text("{{ messages }}")
    add_json(checkpoint, "generation_config.json", eos_token_id=[7, 2])
    report = build_engine(checkpoint, tmp_path / "1", "fp32")
    assert set(contents(tmp_path / "1")) == {
        "segment_00.onnx",
        "segment_01.onnx",
        "segment_02.onnx",
        "weights.bin",
        "rotary.npy",
        "tensors.json",
        "engine.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "generation_config.json",
    }
    decoder = EngineConfig.load(tmp_path / "1").decoder
    assert EngineConfig.load(tmp_path / "1") == EngineConfig(
        architecture="LlamaForCausalLM",
        precision="fp32",
        context_length=128,
        end_token_ids=(7, 2),
        decoder=decoder,
    )
    assert (decoder.vocab_size, decoder.hidden_size, decoder.heads) == (101, 64, (heads(),) * 2)
    assert {each.feed_forward.down.columns for each in decoder.layers} == {96}
    assert report.parameters == 101 * 64 + 2 * (64 * (128 + 64) + 3 * 64 * 96 + 2 * 64) + 64
    assert report.size_bytes == sum(len(file) for file in contents(tmp_path / "1").values())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_segments_have_the_agreed_inputs_and_outputs(tmp_path, precision):
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "qwen3")
    build_engine(checkpoint, tmp_path / "1", precision)
    attended = {
        "attention": ("tensor(float)", ["tokens", 4 * 32]),
        "residual": ("tensor(float)", ["tokens", 64]),
    }
    to_attend = {
        "next_residual": ("tensor(float)", ["tokens", 64]),
        "qkv": ("tensor(float)", ["tokens", (4 + 2 * 2) * 32]),
    }
    expected = [
        ({"input_ids": ("tensor(int64)", ["tokens"])}, to_attend),
        (attended, to_attend),
        (
            {**attended, "rows": ("tensor(int64)", ["sequences"])},
            {"logits": ("tensor(float)", ["sequences", 101])},
        ),
    ]
    for segment, values in zip(PackedEngine(tmp_path / "1").segments, expected, strict=True):
        inputs, outputs = segment.get_inputs(), segment.get_outputs()
        assert (
            {v.name: (v.type, v.shape) for v in inputs},
            {v.name: (v.type, v.shape) for v in outputs},
        ) == values


def test_the_rotary_table_is_that_of_the_context(tmp_path, checkpoint):
    build_engine(checkpoint, tmp_path / "1", "fp32", context_length=50)
    cos, sin = np.load(tmp_path / "1" / "rotary.npy")
    angles = np.arange(50)[:, None] * 10_000.0 ** (-np.arange(8) / 8)
    np.testing.assert_allclose(cos, np.cos(angles), atol=1e-7)
    np.testing.assert_allclose(sin, np.sin(angles), atol=1e-7)


def test_weights_begin_on_pages(tmp_path, checkpoint):
    build_engine(checkpoint, tmp_path / "1", "fp32")
    for file in (tmp_path / "1").glob("*.onnx"):
        for tensor in onnx.load(file, load_external_data=False).graph.initializer:
            place = {entry.key: entry.value for entry in tensor.external_data}
            if place:
                assert place["location"] == "weights.bin"
                assert int(place["offset"]) % 4096 == 0


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_same_checkpoint_gives_the_same_bytes(tmp_path, checkpoint, precision):
    for name in ("one", "other"):
        build_engine(checkpoint, tmp_path / name, precision)
    assert contents(tmp_path / "one") == contents(tmp_path / "other")
    sharded = make_checkpoint(tmp_path / "sharded", shards=3)
    build_engine(sharded, tmp_path / "third", precision)
    assert contents(tmp_path / "one") == contents(tmp_path / "third")


def test_blocks_leave_no_trace_in_the_engine(tmp_path, checkpoint, monkeypatch):
    for precision in PRECISIONS:
        build_engine(checkpoint, tmp_path / precision, precision)
        with monkeypatch.context() as patch:
            patch.setattr("build.checkpoint._BLOCK_BYTES", 5000)
            build_engine(checkpoint, tmp_path / f"{precision}-in-blocks", precision)
        assert contents(tmp_path / precision) == contents(tmp_path / f"{precision}-in-blocks")


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        ({}, {"eos_token_id": 5}, (5,)),
        ({}, {"eos_token_id": [5, 6]}, (5, 6)),
        ({"eos_token_id": [8, 5]}, {"eos_token_id": 5}, (8, 5)),
        ({"eos_token_id": 8}, {"eos_token_id": 5}, (8,)),
        ({"eos_token_id": None}, {"eos_token_id": 5}, (5,)),
    ],
)
def test_the_end_tokens(tmp_path, checkpoint, generation, config, expected):
    add_json(checkpoint, "generation_config.json", **generation)
    add_json(checkpoint, "config.json", **config)
    build_engine(checkpoint, tmp_path / "1", "fp32")
    assert EngineConfig.load(tmp_path / "1").end_token_ids == expected


def test_the_tokenizers_own_end_token_ends_a_text_too(tmp_path, checkpoint):
    add_json(checkpoint, "generation_config.json", eos_token_id=[8, 5])
    add_json(checkpoint, "special_tokens_map.json", eos_token={"content": "b"})
    build_engine(checkpoint, tmp_path / "engine", "fp32")
    assert EngineConfig.load(tmp_path / "engine").end_token_ids == (8, 5, 4)
    assert (tmp_path / "engine" / "special_tokens_map.json").is_file()


def test_the_family_says_what_ends_a_text_where_nothing_else_does(tmp_path, checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    del config["eos_token_id"]
    (checkpoint / "config.json").write_text(json.dumps(config))
    build_engine(checkpoint, tmp_path / "engine", "fp32")
    assert EngineConfig.load(tmp_path / "engine").end_token_ids == (2,)


@pytest.mark.parametrize(
    ("eos", "message"),
    [
        (None, "neither generation_config.json nor config.json has eos_token_id"),
        ([], "neither generation_config.json nor config.json has eos_token_id"),
        (101, "eos_token_id 101 is not in the vocabulary"),
        ("</s>", "eos_token_id = '</s>', not a token or a list of tokens"),
    ],
)
def test_end_tokens_that_are_none(tmp_path, checkpoint, eos, message):
    add_json(checkpoint, "config.json", eos_token_id=eos)
    with pytest.raises(CheckpointError, match=message):
        build_engine(checkpoint, tmp_path / "1", "fp32")
    assert not (tmp_path / "1").exists()


def test_another_engine_takes_the_place_but_model_py_stays(tmp_path, checkpoint):
    output = tmp_path / "1"
    output.mkdir()
    (output / "model.py").write_text("serve()")
    (checkpoint / "chat_template.jinja").write_text("{{ messages }}")
    build_engine(checkpoint, output, "fp32")
    (checkpoint / "chat_template.jinja").unlink()
    build_engine(checkpoint, output, "int4", context_length=50)
    assert (output / "model.py").read_text() == "serve()"
    assert not (output / "chat_template.jinja").exists()
    engine = EngineConfig.load(output)
    assert (engine.precision, engine.context_length) == ("int4", 50)


def test_files_of_other_engines_disappear(tmp_path):
    """A build has as many segments as layers; former formats had other files."""
    deep = make_checkpoint(tmp_path / "deep", num_hidden_layers=4)
    build_engine(deep, tmp_path / "1", "fp32")
    for name in ("model.onnx", "model.onnx.data", "decoder.json"):
        (tmp_path / "1" / name).write_text("format 1 or 2")
    shallow = make_checkpoint(tmp_path / "shallow", num_hidden_layers=1)
    build_engine(shallow, tmp_path / "1", "fp32")
    graphs = [file.name for file in (tmp_path / "1").glob("*.onnx*")]
    assert sorted(graphs) == ["segment_00.onnx", "segment_01.onnx"]
    assert not (tmp_path / "1" / "decoder.json").exists()


def test_an_error_in_the_middle_leaves_the_former_engine(tmp_path, checkpoint, monkeypatch):
    build_engine(checkpoint, tmp_path / "1", "fp32")
    before = contents(tmp_path / "1")
    monkeypatch.setattr(Segment, "_feed_forward", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build_engine(checkpoint, tmp_path / "1", "int4")
    assert contents(tmp_path / "1") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "checkpoint"]


@pytest.mark.parametrize(
    "moment", ["segments.Segment._feed_forward", "engine_folder.EngineConfig.save"]
)
def test_a_killed_build_leaves_the_former_engine(tmp_path, checkpoint, moment):
    output = tmp_path / "1"
    build_engine(checkpoint, output, "fp32")
    before = contents(output)
    program = (
        "import os, signal, build.engine_folder, build.segments\n"
        "from pathlib import Path\n"
        f"build.{moment} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"checkpoint, output = Path({str(checkpoint)!r}), Path({str(output)!r})\n"
        "build.engine_folder.build_engine(checkpoint, output, 'int4')\n"
    )
    killed = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert contents(output) == before
    build_engine(checkpoint, output, "int4")
    assert EngineConfig.load(output).precision == "int4"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "checkpoint"]


def test_the_checkpoint_is_not_built_over(checkpoint):
    with pytest.raises(BuildError, match="the checkpoint's own folder"):
        build_engine(checkpoint, checkpoint, "fp32")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_build_holds_a_block_in_memory_and_not_the_checkpoint(tmp_path, monkeypatch, precision):
    checkpoint = make_checkpoint(tmp_path / "checkpoint", vocab_size=50_000)  # 12.8 MB
    monkeypatch.setattr("build.checkpoint._BLOCK_BYTES", 100_000)
    # To calibrate an int8 cache, the finished engine is run.
    settings = {"precision": precision, "kv_cache_dtype": "float32"}
    build_engine(checkpoint, tmp_path / "1", **settings)  # what is imported late is imported here
    tracemalloc.start()
    try:
        build_engine(checkpoint, tmp_path / "1", **settings)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 2_000_000
