"""The native decoder computes what the graphs say, each sequence by itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from build.engine_folder import build_engine
from contract.errors import EngineError
from python_backend.engine.engine_config import EngineConfig, Precision
from python_backend.engine.kernels import load_kernels
from python_backend.engine.onnx_engine import OnnxEngine
from python_backend.engine.sequence import SamplingParams, Sequence
from python_backend.engine.tensor_places import TENSORS_FILE
from tests.build.checkpoints import (
    KINDS,
    make_checkpoint,
    make_config,
    make_tensors,
    write_checkpoint,
)
from tests.python_backend.engine import instruction_sets

Build = Callable[..., Path]

VOCAB = 101
PARAMS = SamplingParams(max_tokens=6)
NAMES = {
    "avx512_vnni": "AVX-512 VNNI",
    "avx512": "AVX-512",
    "avx_vnni": "AVX-VNNI",
    "avx2": "AVX2",
}
# Neither the hidden size nor the MLP is a multiple of the kernels' groups of 32 or panels of 64.
ODD = {"hidden_size": 48, "intermediate_size": 88, "head_dim": 16}


@pytest.fixture(params=instruction_sets.parameters(native_decoder=True))
def instructions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The library of kernels: each that this processor can run."""
    monkeypatch.setenv("TRIREME_KERNELS", str(request.param))
    return str(request.param)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Builds each engine once; whoever changes one takes a copy."""

    @cache
    def build(kind: str, precision: Precision, **changes: int) -> Path:
        root = tmp_path_factory.mktemp(kind)
        checkpoint = make_checkpoint(root / "checkpoint", kind, "bf16", **changes)
        build_engine(checkpoint, root / precision, precision)
        return root / precision

    return build


@pytest.fixture
def folder(built: Build, tmp_path: Path) -> Path:
    """A copy of an engine."""
    return shutil.copytree(built("llama", "int8"), tmp_path / "int8")


def load(folder: Path, native: bool = True, **settings: Any) -> OnnxEngine:
    small = {"num_threads": 2, "kv_cache_bytes": 16 << 20}
    engine = OnnxEngine(folder, native=native, **{**small, **settings})
    assert engine.runner.name.startswith("native" if native else "ONNX")
    return engine


def prompts(*lengths: int) -> list[NDArray[np.int32]]:
    rng = np.random.default_rng(5)
    return [rng.integers(3, VOCAB, length, dtype=np.int32) for length in lengths]


def logits_of(
    engine: OnnxEngine, *inputs: NDArray[np.int32]
) -> dict[bytes, list[NDArray[np.float32]]]:
    """What each prompt and its continuation lead to, step by step."""
    found: dict[bytes, list[NDArray[np.float32]]] = {each.tobytes(): [] for each in inputs}
    compute = engine._runner.run

    def run(work):
        logits = compute(work)
        chosen = [each.sequence for each in work if each.num_chosen]
        for sequence, row in zip(chosen, logits, strict=True):
            found[sequence.prompt.tobytes()].append(row.copy())
        return logits

    engine._runner.run = run  # type: ignore[method-assign]
    for each in inputs:
        engine.add(Sequence(each, PARAMS))
    while engine.has_work:
        engine.step()
    return found


def error(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize("precision", ["int8", "int8_block", "int4"])
@pytest.mark.parametrize(
    ("kind", "changes"), [*((kind, {}) for kind in KINDS), ("llama", ODD)], ids=str
)
def test_it_computes_what_the_graphs_say(
    built: Build, kind: str, changes: dict[str, int], precision: Precision
) -> None:
    """Up to roundings: far closer to the graphs than these are to full precision.

    In 8-bit blocks what is lost is mostly that of the activations, which the graphs round around
    zero and the native decoder around an offset, where a group of them has one.
    """
    folder = built(kind, precision, **changes)
    full = built(kind, "fp32", **changes)
    inputs = prompts(3, 40, 1)
    native = logits_of(load(folder), *inputs)
    graphs = logits_of(load(folder, native=False), *inputs)
    exact = logits_of(load(full, native=False), *inputs)
    for key in native:
        rounding = error(graphs[key][0], exact[key][0])
        share = 2 if precision == "int8_block" else 1 / 3
        assert error(native[key][0], graphs[key][0]) < max(rounding * share, 0.02)


@pytest.mark.usefixtures("instructions")
def test_the_head_may_be_in_eight_bits_beside_four(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "llama", "bf16", **ODD)
    build_engine(checkpoint, tmp_path / "fp32", "fp32")
    build_engine(checkpoint, tmp_path / "int4", "int4")
    build_engine(checkpoint, tmp_path / "mixed", "int4", head="int8_block")
    inputs = prompts(3, 40, 1)
    exact = logits_of(load(tmp_path / "fp32", native=False), *inputs)
    graphs = logits_of(load(tmp_path / "mixed", native=False), *inputs)
    mixed, four = (logits_of(load(tmp_path / name), *inputs) for name in ("mixed", "int4"))
    assert not all(np.array_equal(mixed[key][0], four[key][0]) for key in mixed)
    for key in mixed:
        assert error(mixed[key][0], graphs[key][0]) < error(graphs[key][0], exact[key][0]) / 3
    lost, lost_of_four = (
        np.mean([error(each[key][0], exact[key][0]) for key in exact]) for each in (mixed, four)
    )
    assert lost < lost_of_four


@pytest.mark.usefixtures("instructions")
def test_a_token_is_looked_up_in_the_blocks_of_the_head(tmp_path: Path) -> None:
    """Of layers that add nothing, so that only its row of the table matters."""
    config = make_config("llama", **ODD)
    tensors = make_tensors(config)
    for name in tensors:
        if "o_proj" in name or "down_proj" in name:
            tensors[name][:] = 0
    checkpoint = write_checkpoint(tmp_path / "checkpoint", config, tensors)
    build_engine(checkpoint, tmp_path / "engine", "int8_block")
    table = tensors["model.embed_tokens.weight"].astype(np.float64)
    for key, found in logits_of(load(tmp_path / "engine"), *prompts(1, 5)).items():
        row = table[np.frombuffer(key, np.int32)[-1]]
        normed = row / np.sqrt(np.square(row).mean()) * tensors["model.norm.weight"]
        expected = table @ normed
        lost = np.sqrt(np.square(found[0] - expected).mean() / np.square(expected).mean())
        assert lost < 0.01


def test_weights_that_are_missing_are_an_error(folder: Path) -> None:
    places = json.loads((folder / TENSORS_FILE).read_text())
    name = next(each for each in places if each.endswith("/levels"))
    del places[name]
    (folder / TENSORS_FILE).write_text(json.dumps(places))
    with pytest.raises(EngineError, match=f"has no {name[:10]}.*: build the engine anew"):
        OnnxEngine(folder, kv_cache_bytes=16 << 20)


@pytest.fixture(params=["int8", "int8_block", "int4"])
def odd_folder(built: Build, request: pytest.FixtureRequest) -> Path:
    return built("qwen2", request.param, **ODD)


# Built before, as a build has threads, too.
@pytest.mark.usefixtures("instructions", "odd_folder", "own_threads")
def test_logits_are_the_same_bits_in_any_company_on_any_threads(odd_folder: Path) -> None:
    folder = odd_folder
    inputs = prompts(*range(1, 33))
    # In this order: there are never fewer threads than there were.
    alone = [logits_of(load(folder, num_threads=1), each) for each in inputs[::3]]
    kernels = load_kernels(num_threads=1)
    assert kernels is not None
    assert kernels.trireme_num_threads() == 1
    together = logits_of(load(folder), *inputs)
    chunked = logits_of(load(folder, num_threads=5, max_num_tokens=7), *inputs)
    for each in alone:
        for key, expected in each.items():
            for found in (together[key], chunked[key]):
                assert np.array_equal(np.array(found), np.array(expected))


def test_its_name_says_the_instructions(built: Build, instructions: str) -> None:
    engine = load(built("llama", "int8"))
    assert engine.runner.name == f"native decoder ({NAMES[instructions]})"
    if instructions == "avx512_vnni":
        assert engine.layout.kv_dtype == "int8"
    else:
        assert engine.layout.kv_dtype == "float32"
        with pytest.raises(EngineError, match=r"kv_cache_dtype int8 needs .* AVX-512 VNNI"):
            OnnxEngine(built("llama", "int8"), kv_cache_dtype="int8")


@pytest.mark.parametrize(("kernels", "attention"), [("sse4", "C"), ("none", "numpy (no kernels)")])
def test_without_a_native_decoder_the_graphs_are_run(
    built: Build, monkeypatch: pytest.MonkeyPatch, kernels: str, attention: str
) -> None:
    monkeypatch.setenv("TRIREME_KERNELS", kernels)
    assert (
        OnnxEngine(built("llama", "int8")).runner.name == f"ONNX Runtime, attention in {attention}"
    )


def test_fp32_is_run_by_the_graphs(built: Build) -> None:
    load(built("llama", "fp32"), native=False)


def test_damaged_weights_are_named(folder: Path) -> None:
    whole = (folder / "weights.bin").read_bytes()
    (folder / "weights.bin").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(EngineError, match=r"weights\.bin ends before .* does: build the engine"):
        OnnxEngine(folder)
    (folder / "weights.bin").unlink()
    with pytest.raises(EngineError, match=r"weights\.bin can't be read"):
        OnnxEngine(folder)


def change(path: Path, edit: Callable[[Any], None]) -> None:
    """Edit a JSON file."""
    values = json.loads(path.read_text())
    edit(values)
    path.write_text(json.dumps(values))


def widen(config: Any) -> None:
    part = config["decoder"]["layers"][1]["feed_forward"]
    part["gate_up"]["first"]["rows"] = part["gate_up"]["second"]["rows"] = [97]
    part["down"]["columns"] = 97


def test_a_description_of_another_decoder_is_named(folder: Path) -> None:
    change(folder / "engine.json", widen)
    with pytest.raises(EngineError, match=r"has no .*gate_proj.* \[64, 97\]: build the engine"):
        OnnxEngine(folder)


def test_damaged_places_are_named(folder: Path) -> None:
    path = folder / "tensors.json"
    change(path, lambda places: places["model.norm.weight"].update(offset=-1))
    with pytest.raises(EngineError, match=r"tensors\.json does not list tensors: .*offset: Input"):
        OnnxEngine(folder)
    change(path, lambda places: places["model.norm.weight"].update(offset=0, dtype="int8"))
    with pytest.raises(EngineError, match=r"has no model\.norm\.weight of float32 \[64\]: build"):
        OnnxEngine(folder)
    path.unlink()
    with pytest.raises(EngineError, match=r"tensors\.json is missing: build the engine anew"):
        OnnxEngine(folder)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda layer: layer["feed_forward"].update(activation="relu"),
            r"engine: decoder: layers: 0: feed_forward: activation: Input should be 'silu'",
        ),
        (
            lambda layer: layer["feed_forward"].update(kind="experts"),
            r"engine: decoder: layers: 0: feed_forward: kind: Input should be 'gated'",
        ),
        (
            lambda layer: layer["feed_forward"]["norm"].update(eps=-1),
            r"engine: decoder: layers: 0: feed_forward: norm: eps: Input",
        ),
        (
            lambda layer: layer["attention"].update(kind="latent"),
            r"engine: decoder: layers: 0: attention: kind: Input should be 'grouped'",
        ),
    ],
)
def test_a_part_that_is_not_known_is_named(
    folder: Path, edit: Callable[[Any], None], message: str
) -> None:
    change(folder / "engine.json", lambda config: edit(config["decoder"]["layers"][0]))
    with pytest.raises(EngineError, match=message):
        OnnxEngine(folder)


def test_the_description_is_read_as_it_was_written(built: Build, tmp_path: Path) -> None:
    for kind in KINDS:
        config = EngineConfig.load(built(kind, "int4"))
        config.save(tmp_path)
        assert EngineConfig.load(tmp_path) == config
