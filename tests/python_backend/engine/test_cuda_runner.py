"""The engine on CUDA but for the GPU: the graph runs in ONNX's reference evaluator."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from build.engine_folder import build_engine
from contract.errors import EngineError
from python_backend.engine.cuda_device import CudaDevice, CudaLayout, choose_device
from python_backend.engine.engine_config import (
    ENGINE_FILE,
    GRAPH_FILE,
    EngineConfig,
    ExecutionProvider,
)
from python_backend.engine.onnx_engine import OnnxEngine
from python_backend.engine.sequence import SamplingParams, Sequence
from python_backend.text.tokenizer import TextTokenizer
from tests.build.builds import DEMO
from tests.build.checkpoints import make_checkpoint
from tests.build.reference_device import ReferenceDevice
from tests.python_backend.engine.descriptions import edited

CONTEXT, VOCAB, BLOCK = 1024, 101, 256
GREEDY = SamplingParams(max_tokens=8)
SAMPLED = SamplingParams(max_tokens=8, top_p=0.9, seed=5, log_probs=True)


def make_prompts(*lengths: int) -> list[NDArray[np.int32]]:
    rng = np.random.default_rng(11)
    return [rng.integers(3, VOCAB, length, dtype=np.int32) for length in lengths]


PROMPTS = make_prompts(1, 9, 300, 40, 17)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("engines")
    checkpoint = make_checkpoint(root / "checkpoint", max_position_embeddings=CONTEXT)
    build_engine(checkpoint, root / "fp32", "fp32")
    build_engine(checkpoint, root / "fp16", "fp16")
    build_engine(checkpoint, root / "int4", "int4", execution_provider="cuda")
    return {name: root / name for name in ("fp32", "fp16", "int4")}


@pytest.fixture
def device() -> ReferenceDevice:
    return ReferenceDevice()


@pytest.fixture
def load(folders: dict[str, Path], device: ReferenceDevice) -> Callable[..., OnnxEngine]:
    def load(precision: str = "fp16", blocks: int = 24, **settings: Any) -> OnnxEngine:
        block_bytes = 2 * 2 * BLOCK * 2 * 16 * 2  # layers, keys and values, heads, width, bytes
        size_bytes = blocks * block_bytes + block_bytes - 1
        return OnnxEngine(folders[precision], kv_cache_bytes=size_bytes, device=device, **settings)

    return load


def run(engine: OnnxEngine, *params: SamplingParams) -> list[Sequence]:
    """All prompts together."""
    sequences = [
        Sequence(prompt, params[index % len(params)]) for index, prompt in enumerate(PROMPTS)
    ]
    for sequence in sequences:
        engine.add(sequence)
    while engine.has_work:
        engine.step()
    return sequences


def alone(engine: OnnxEngine, params: SamplingParams) -> list[list[int]]:
    return [engine.generate([prompt], params)[0] for prompt in PROMPTS]


def test_tokens_are_those_of_the_cpu(
    folders: dict[str, Path], load: Callable[..., OnnxEngine], device: ReferenceDevice
) -> None:
    engine = load()
    assert engine.runner.name == device.name
    expected = alone(OnnxEngine(folders["fp32"]), GREEDY)
    assert [each.output for each in run(engine, GREEDY)] == expected


def test_the_demo_model_answers_as_on_the_cpu(tmp_path: Path, device: ReferenceDevice) -> None:
    build_engine(DEMO, tmp_path / "fp32", "fp32")
    build_engine(DEMO, tmp_path / "fp16", "fp16")
    tokenizer = TextTokenizer.load(tmp_path / "fp32")
    assert tokenizer.chat_template is not None
    prompts = [
        tokenizer.encode(
            tokenizer.chat_template.render([{"role": "user", "content": question}]), False
        )
        for question in ("What is the capital of France?", "Count from 17 to 22.")
    ]
    end_ids = EngineConfig.load(tmp_path / "fp32").end_token_ids
    params = SamplingParams(max_tokens=24, end_ids=frozenset(end_ids))
    cpu = OnnxEngine(tmp_path / "fp32").generate(prompts, params)
    gpu = OnnxEngine(tmp_path / "fp16", kv_cache_bytes=1 << 26, device=device)
    assert gpu.generate(prompts, params) == cpu


@pytest.mark.parametrize(
    ("precision", "params", "max_num_tokens"),
    [("fp16", SAMPLED, 512), ("fp16", SAMPLED, 11), ("fp16", GREEDY, 29), ("int4", GREEDY, 512)],
)
def test_company_and_chunks_change_no_token(
    load: Callable[..., OnnxEngine], precision: str, params: SamplingParams, max_num_tokens: int
) -> None:
    together = run(load(precision, max_num_tokens=max_num_tokens), params)
    assert [each.output for each in together] == alone(load(precision), params)


def test_logits_stay_on_the_device_where_all_take_the_likeliest(
    load: Callable[..., OnnxEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load()
    chosen = []
    compute = engine.runner.run

    def spy(work: Any) -> Any:
        computed = compute(work)
        chosen.append(isinstance(computed, list))
        return computed

    monkeypatch.setattr(engine.runner, "run", spy)
    greedy = [each.output for each in run(engine, GREEDY)]
    assert all(chosen)
    chosen.clear()
    mixed = run(engine, replace(SAMPLED, max_tokens=4), GREEDY)
    assert chosen[0] is False
    assert chosen[-1] is True
    assert [each.output for each in mixed[1::2]] == greedy[1::2]
    assert [len(each.log_probs) for each in mixed] == [4, 0, 4, 0, 4]
    for told in (replace(GREEDY, log_probs=True), replace(GREEDY, repetition_penalty=1.0001)):
        chosen.clear()
        assert run(engine, told)[1].output == greedy[1]
        assert not any(chosen)


def test_a_known_prefix_is_computed_once(
    load: Callable[..., OnnxEngine], device: ReferenceDevice
) -> None:
    prefix, first, second = make_prompts(2 * BLOCK + 10, 5, 30)
    prompts = [np.concatenate([prefix, rest]) for rest in (first, second)]
    engine = load()
    outputs = [engine.generate([prompt], GREEDY)[0] for prompt in prompts]
    assert engine.scheduler.num_reused_blocks == 2
    computed = [step["input_ids"].size for step in device.sessions[-1].steps]
    assert sum(computed) == sum(map(len, prompts)) - 2 * BLOCK + 2 * (GREEDY.max_tokens - 1)
    assert outputs == [load().generate([prompt], GREEDY)[0] for prompt in prompts]


def test_sequences_that_wait_again_go_on_with_the_same_tokens(
    load: Callable[..., OnnxEngine],
) -> None:
    prompts, params = make_prompts(230, 240, 250), replace(GREEDY, max_tokens=40)
    tight = load(blocks=4)
    outputs = tight.generate(prompts, params)
    assert tight.scheduler.num_preempted > 0
    assert outputs == load().generate(prompts, params)
    assert tight.scheduler.pool.num_used == 0


def test_a_chunk_that_yields_no_token_asks_for_a_row_all_the_same(
    load: Callable[..., OnnxEngine], device: ReferenceDevice
) -> None:
    """No operator is launched over nothing."""
    load(max_num_tokens=50).generate([PROMPTS[2]], GREEDY)
    assert {step["rows"].size for step in device.sessions[-1].steps} == {1}


@pytest.mark.parametrize(
    ("head_dim", "tokens"), [(16, 256), (64, 256), (80, 128), (128, 128), (256, 64)]
)
def test_blocks_are_as_large_as_flash_attention_wants(head_dim: int, tokens: int) -> None:
    layout = CudaLayout(num_layers=3, num_kv_heads=2, head_dim=head_dim)
    assert layout.block_tokens == tokens
    assert layout.block_bytes == 3 * 2 * tokens * 2 * head_dim * 2


def test_the_budget_is_what_is_allocated(
    load: Callable[..., OnnxEngine], device: ReferenceDevice
) -> None:
    engine = load(blocks=5, max_sequences=4, spare_rows=3)
    assert engine.scheduler.pool.num_blocks == 5
    assert engine.kv_cache_resident_bytes == 5 * engine.layout.block_bytes
    logits_bytes = (4 + 3) * VOCAB * 4
    assert device.allocated_bytes == engine.kv_cache_resident_bytes + logits_bytes
    with pytest.raises(EngineError, match="the KV cache has 65535 bytes; 256 tokens take 65536"):
        load(blocks=0)


def test_a_device_without_room_says_what_to_lower(
    load: Callable[..., OnnxEngine], device: ReferenceDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def allocate(shape: Any, dtype: Any) -> Any:
        raise EngineError("out of memory")

    monkeypatch.setattr(device, "allocate", allocate)
    with pytest.raises(EngineError, match=r"finds no room: lower kv_cache_bytes. out of memory"):
        load()


def test_a_failing_step_says_so(
    load: Callable[..., OnnxEngine], device: ReferenceDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load()

    def fail(binding: Any) -> None:
        raise RuntimeError("CUDA error 700")

    with monkeypatch.context() as patch:
        patch.setattr(device.sessions[-1], "run_with_iobinding", fail)
        engine.add(Sequence(PROMPTS[0], GREEDY))
        with pytest.raises(EngineError, match="the engine failed: CUDA error 700"):
            engine.step()
    engine.drop_running()
    assert engine.generate([PROMPTS[1]], GREEDY) == load().generate([PROMPTS[1]], GREEDY)


class HostDevice(ReferenceDevice):
    """ONNX Runtime's own sessions and bindings, on the CPU."""

    def allocate(self, shape: tuple[int, ...], dtype: type) -> ort.OrtValue:
        return ort.OrtValue.ortvalue_from_shape_and_type(shape, dtype, self.kind, self.index)

    def load(self, path: Path) -> Any:
        return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def write_bigrams(path: Path, table: NDArray[np.float32], like: Path) -> None:
    """A graph with the inputs and outputs of another, whose logits are a row of a table for each
    token; the caches stay as they are.
    """
    graph = onnx.load(like, load_external_data=False).graph
    nodes = [
        helper.make_node("Gather", ["input_ids", "rows"], ["last"]),
        helper.make_node("Gather", ["table", "last"], ["logits"]),
        helper.make_node("ArgMax", ["logits"], ["tokens"], axis=-1, keepdims=0),
    ]
    nodes += [
        helper.make_node("Identity", [each.name.removesuffix(".out")], [each.name])
        for each in graph.output
        if each.name.endswith(".out")
    ]
    values = [numpy_helper.from_array(table, "table")]
    bigrams = helper.make_graph(nodes, "bigrams", graph.input, graph.output, values)
    opsets = [helper.make_opsetid("", 21)]
    onnx.save(helper.make_model(bigrams, ir_version=10, opset_imports=opsets), path)


def test_the_calls_are_onnx_runtimes_own(folders: dict[str, Path], tmp_path: Path) -> None:
    table = np.random.default_rng(2).standard_normal((VOCAB, VOCAB), dtype=np.float32)
    shutil.copyfile(folders["fp16"] / ENGINE_FILE, tmp_path / ENGINE_FILE)
    write_bigrams(tmp_path / GRAPH_FILE, table, folders["fp16"] / GRAPH_FILE)
    device = HostDevice()
    engine = OnnxEngine(tmp_path, max_num_tokens=64, kv_cache_bytes=1 << 21, device=device)
    sequences = run(engine, GREEDY, replace(GREEDY, max_tokens=5, log_probs=True))
    for sequence in sequences:
        token = int(sequence.prompt[-1])
        for chosen in sequence.output:
            token = int(table[token].argmax())
            assert chosen == token
    assert [len(each.output) for each in sequences] == [8, 5, 8, 5, 8]
    row = table[sequences[1].prompt[-1]]
    expected = row.max() - np.log(np.exp(row.astype(np.float64)).sum())
    assert sequences[1].log_probs[0].chosen == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_keys_and_values_are_float16(load: Callable[..., OnnxEngine], dtype: str) -> None:
    with pytest.raises(EngineError, match=f"kv_cache_dtype is {dtype}; the engine was built for"):
        load(kv_cache_dtype=dtype)


@pytest.mark.parametrize(
    ("name", "value"),
    [("vocab_size", 100), ("num_layers", 1), ("num_layers", 3), ("head_dim", 32)],
)
def test_another_graph_is_refused(
    folders: dict[str, Path], tmp_path: Path, device: ReferenceDevice, name: str, value: int
) -> None:
    for file in (GRAPH_FILE, "weights.bin"):
        shutil.copyfile(folders["fp16"] / file, tmp_path / file)
    edited(EngineConfig.load(folders["fp16"]), name, value).save(tmp_path)
    with pytest.raises(EngineError, match=r"is not the graph that the engine\.json beside it"):
        OnnxEngine(tmp_path, kv_cache_bytes=1 << 20, device=device)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "int8"}, "int8 weights are not for cuda"),
        ({"kv_cache_dtype": "int8"}, "a kv_cache_dtype of int8 is not for cuda"),
        ({"execution_provider": "cpu"}, "fp16 weights are not for cpu"),
    ],
)
def test_a_description_that_contradicts_itself_is_refused(
    folders: dict[str, Path], tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    description = json.loads((folders["fp16"] / ENGINE_FILE).read_text())
    (tmp_path / ENGINE_FILE).write_text(json.dumps({**description, **changes}))
    with pytest.raises(EngineError, match=message):
        OnnxEngine(tmp_path)


def test_the_onnxruntime_for_cpus_says_what_to_install(folders: dict[str, Path]) -> None:
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this is the onnxruntime for GPUs")
    with pytest.raises(EngineError, match=r"on the CPU only: install requirements/cuda.txt"):
        OnnxEngine(folders["fp16"])


def test_a_gpu_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """As onnxruntime-gpu says it on a machine without a GPU."""

    def refuse(*arguments: Any) -> None:
        raise RuntimeError("CUDA Provider not available, can't get interface for it")

    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: providers)
    monkeypatch.setattr(ort, "preload_dlls", lambda: None)
    monkeypatch.setattr(ort.OrtValue, "ortvalue_from_shape_and_type", refuse)
    with pytest.raises(EngineError, match=r"CUDA device 1 can't be used: .* not available"):
        CudaDevice(1)


@pytest.mark.parametrize(("precision", "provider"), [("fp16", "cpu"), ("fp32", "cuda")])
def test_settings_for_another_provider_are_refused(
    folders: dict[str, Path], precision: str, provider: ExecutionProvider
) -> None:
    config = EngineConfig.load(folders[precision])
    other = config.execution_provider
    message = f"execution_provider is {provider}, but the engine was built for {other}: set "
    with pytest.raises(EngineError, match=message):
        choose_device(config, provider, 0)
    assert choose_device(EngineConfig.load(folders["fp32"]), "cpu", 0) is None
