"""The engine, end to end on a tiny random model: company, cuts and failures change no token."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from build.engine_folder import build_engine
from contract.errors import EngineError, InvalidRequestError
from python_backend.engine.engine_config import EngineConfig
from python_backend.engine.engine_core import EngineStats
from python_backend.engine.onnx_engine import OnnxEngine
from python_backend.engine.sequence import SamplingParams, Sequence
from tests.build.checkpoints import make_checkpoint
from tests.python_backend.engine.descriptions import edited

CONTEXT, VOCAB = 128, 101

GREEDY = SamplingParams(max_tokens=12)
SEEDED = SamplingParams(max_tokens=12, top_p=0.95, temperature=1.5, seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("engine")
    build_engine(make_checkpoint(root / "checkpoint"), root / "1", "fp32")
    return root / "1"


@pytest.fixture
def load(folder: Path) -> Callable[..., OnnxEngine]:
    def load(**settings: Any) -> OnnxEngine:
        return OnnxEngine(folder, num_threads=1, **settings)

    return load


@pytest.fixture
def damaged(folder: Path, tmp_path: Path) -> Path:
    """A copy of the engine folder to damage."""
    return Path(shutil.copytree(folder, tmp_path / "1"))


def make_prompts(*lengths: int) -> list[NDArray[np.int32]]:
    rng = np.random.default_rng(11)
    return [rng.integers(3, VOCAB, length, dtype=np.int32) for length in lengths]


PROMPTS = make_prompts(1, 9, 30, 4, 17)


def add(engine: OnnxEngine, *prompts: NDArray[np.int32], params: SamplingParams) -> list[Sequence]:
    sequences = [Sequence(prompt, params) for prompt in prompts]
    for sequence in sequences:
        engine.add(sequence)
    return sequences


def finish(engine: OnnxEngine) -> None:
    while engine.has_work:
        engine.step()


def alone(engine: OnnxEngine, params: SamplingParams = GREEDY) -> list[list[int]]:
    """What each prompt becomes by itself."""
    return [engine.generate([prompt], params)[0] for prompt in PROMPTS]


def test_the_model_is_lively_enough_for_these_tests(load: Callable[..., OnnxEngine]) -> None:
    outputs = alone(load())
    assert len({tuple(output) for output in outputs}) == len(PROMPTS)
    assert all(len(set(output)) > 3 for output in outputs)


@pytest.mark.parametrize("params", [GREEDY, SEEDED], ids=["greedy", "seeded"])
def test_prompts_together_become_what_each_becomes_alone(
    load: Callable[..., OnnxEngine], params: SamplingParams
) -> None:
    assert load().generate(PROMPTS, params) == alone(load(), params)


@pytest.mark.parametrize("max_num_tokens", [1, 7, 16])
def test_cutting_prompts_into_chunks_changes_nothing(
    load: Callable[..., OnnxEngine], max_num_tokens: int
) -> None:
    assert load(max_num_tokens=max_num_tokens).generate(PROMPTS, SEEDED) == alone(load(), SEEDED)


@pytest.mark.parametrize("max_sequences", [1, 2])
def test_more_prompts_than_rows_wait_their_turn(
    load: Callable[..., OnnxEngine], max_sequences: int
) -> None:
    engine = load(max_sequences=max_sequences)
    assert engine.generate(PROMPTS, GREEDY) == alone(load())


def test_sequences_of_many_lengths_share_few_rows(load: Callable[..., OnnxEngine]) -> None:
    engine, single = load(max_sequences=3, max_num_tokens=8), load()
    wanted = [SamplingParams(max_tokens=n, top_p=0.9, seed=n) for n in (3, 11, 1, 7, 5)]
    sequences = [
        add(engine, prompt, params=params)[0]
        for prompt, params in zip(PROMPTS, wanted, strict=True)
    ]
    finish(engine)
    for sequence, params in zip(sequences, wanted, strict=True):
        assert sequence.output == single.generate([sequence.prompt], params)[0]
        assert sequence.finish_reason == "length"


@pytest.mark.parametrize("steps", [0, 1, 3, 6])
@pytest.mark.parametrize("index", [0, 2, 4])
def test_cancelling_one_changes_nothing_for_the_others(
    load: Callable[..., OnnxEngine], steps: int, index: int
) -> None:
    engine = load(max_sequences=4, max_num_tokens=12)
    sequences = add(engine, *PROMPTS, params=GREEDY)
    for _ in range(steps):
        engine.step()
    engine.cancel(sequences[index])
    finish(engine)
    outputs = alone(load())
    cancelled = sequences.pop(index)
    assert cancelled.finish_reason == "cancelled"
    assert cancelled.output == outputs.pop(index)[: len(cancelled.output)]
    assert [sequence.output for sequence in sequences] == outputs


def test_cancelling_frees_the_row(load: Callable[..., OnnxEngine]) -> None:
    engine = load(max_sequences=1)
    first, second = add(engine, *PROMPTS[:2], params=GREEDY)
    engine.step()
    assert engine.scheduler.running == [first]
    engine.cancel(first)
    assert engine.scheduler.pool.num_used == 0
    assert engine.step() == [second]


def test_cancelling_what_has_ended_changes_nothing(load: Callable[..., OnnxEngine]) -> None:
    engine = load()
    (sequence,) = add(engine, PROMPTS[0], params=GREEDY)
    finish(engine)
    engine.cancel(sequence)
    assert sequence.finish_reason == "length"


def test_a_step_gives_every_running_sequence_a_token(load: Callable[..., OnnxEngine]) -> None:
    engine = load(max_num_tokens=10)
    first, second, third = add(engine, *PROMPTS[:3], params=GREEDY)
    assert engine.step() == [first, second]
    assert [len(sequence.output) for sequence in (first, second, third)] == [1, 1, 0]


def test_its_figures_are_those_of_its_scheduler_and_its_cache(
    load: Callable[..., OnnxEngine],
) -> None:
    engine = load(max_sequences=2, max_num_tokens=128)
    engine.generate(make_prompts(40), SamplingParams(max_tokens=1))
    add(engine, *make_prompts(40, 33), *make_prompts(33), params=GREEDY)
    engine.step()
    engine.scheduler.num_preempted = 4
    pool = engine.scheduler.pool
    assert engine.stats() == EngineStats(
        num_running=2,
        num_waiting=1,
        num_preempted=4,
        num_used_blocks=6,
        num_cached_blocks=pool.num_cached,
        num_blocks=pool.num_blocks,
        block_bytes=engine.layout.block_bytes,
        num_looked_up_blocks=6,
        num_reused_blocks=2,
    )


def test_end_tokens_stop_words_and_log_probabilities(load: Callable[..., OnnxEngine]) -> None:
    engine = load()
    output = alone(engine)[1]
    first = output.index(output[5])
    assert engine.generate(
        [PROMPTS[1]], SamplingParams(max_tokens=12, end_ids=frozenset([output[5]]))
    ) == [output[:first]]
    stop = SamplingParams(max_tokens=12, stop_words=(tuple(output[3:5]),), log_probs=True)
    (sequence,) = add(engine, PROMPTS[1], params=stop)
    finish(engine)
    assert sequence.output == output[:5]
    assert len(sequence.log_probs) == 5
    assert all(told.chosen <= 0 for told in sequence.log_probs)


def test_a_full_context_can_be_used_to_its_last_token(load: Callable[..., OnnxEngine]) -> None:
    engine = load()
    (prompt,) = make_prompts(CONTEXT - 5)
    (output,) = engine.generate([prompt], SamplingParams(max_tokens=5))
    longer = np.concatenate([prompt, np.array(output[:4], dtype=np.int32)])
    assert engine.generate([longer], SamplingParams(max_tokens=1)) == [output[4:]]


@pytest.mark.parametrize("steps", [0, 1])
def test_a_failing_step_drops_what_runs_and_no_more(
    load: Callable[..., OnnxEngine], monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    engine = load(max_sequences=2)
    sequences = add(engine, *PROMPTS, params=GREEDY)
    for _ in range(steps):
        engine.step()

    class Failing:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("out of order")

    with monkeypatch.context() as patch:
        runner: Any = engine._runner
        patch.setattr(runner, "_segments", [runner._segments[0], Failing()])
        with pytest.raises(EngineError, match="the engine failed: out of order"):
            engine.step()
    assert engine.drop_running() == sequences[:2]
    assert engine.scheduler.pool.num_used == 0
    assert engine.scheduler.running == []
    finish(engine)
    assert [sequence.output for sequence in sequences[2:]] == alone(load())[2:]
    assert not any(sequence.finished for sequence in sequences[:2])


def check(
    engine: OnnxEngine, prompt: NDArray[np.int32] | list[int], **settings: Any
) -> SamplingParams:
    params = SamplingParams(**{"max_tokens": 1} | settings)
    return engine.check(np.asarray(prompt, dtype=np.int32), params)


def test_what_just_fits_is_accepted(load: Callable[..., OnnxEngine]) -> None:
    engine = load()
    check(engine, [0] * (CONTEXT - 1), max_tokens=1)
    check(engine, [0, VOCAB - 1], max_tokens=CONTEXT - 2, bad_words=((0,), (VOCAB - 1, 0)))
    for size in (1, VOCAB - 3, VOCAB):
        check(engine, [5], embedding_bias=np.zeros(size, dtype=np.float32))


@pytest.mark.parametrize(
    ("prompt", "asked", "given"), [(1, 5, 5), (100, 28, 28), (100, 29, 28), (127, 256, 1)]
)
def test_a_length_that_may_be_cut_fits_the_context(
    load: Callable[..., OnnxEngine], prompt: int, asked: int, given: int
) -> None:
    params = check(load(), [5] * prompt, max_tokens=asked, fit_max_tokens=True)
    assert params.max_tokens == given


def test_it_fits_the_cache_too(load: Callable[..., OnnxEngine]) -> None:
    engine = load(kv_cache_bytes=1 << 20)
    pool = engine.scheduler.pool
    pool_tokens = pool.num_blocks * pool.block_tokens
    engine.config = engine.config.model_copy(update={"context_length": pool_tokens + 100})
    params = check(engine, [5], max_tokens=pool_tokens + 50, fit_max_tokens=True)
    assert params.max_tokens == pool_tokens - 1


@pytest.mark.parametrize(
    ("prompt", "settings", "message"),
    [
        ([], {}, "the prompt is empty; it needs at least 1 token"),
        ([5, VOCAB], {}, "input_ids has a token outside the vocabulary of 101 tokens"),
        ([-1], {}, "input_ids has a token outside the vocabulary of 101 tokens"),
        (
            [5] * CONTEXT,
            {},
            "context_length_exceeded: the prompt has 128 tokens; with the context of 128 tokens it "
            "can have at most 127",
        ),
        (
            [5] * 100,
            {"max_tokens": 29},
            "context_length_exceeded: max_tokens is 29; after a prompt of 100 tokens the context "
            "of 128 tokens has room for at most 28",
        ),
        (
            [5] * CONTEXT,
            {"max_tokens": 29, "fit_max_tokens": True},
            "context_length_exceeded: the prompt has 128 tokens; with the context of 128 tokens it "
            "can have at most 127",
        ),
        (
            [5] * 100,
            {"max_tokens": 40, "min_tokens": 29, "fit_max_tokens": True},
            "min_tokens is 29; it must be between 0 and max_tokens (28)",
        ),
        (
            [5],
            {"stop_words": ((1,), (VOCAB,))},
            "stop_words has an empty word or a token outside the vocabulary of 101",
        ),
        (
            [5],
            {"bad_words": ((),)},
            "bad_words has an empty word or a token outside the vocabulary of 101",
        ),
        (
            [5],
            {"embedding_bias": np.zeros(VOCAB + 1, dtype=np.float32)},
            "embedding_bias has 102 values; it can have at most one for each of the 101 tokens",
        ),
    ],
)
def test_what_can_never_run_is_refused_with_its_bound(
    load: Callable[..., OnnxEngine], prompt: list[int], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequestError) as error:
        check(load(), prompt, **settings)
    assert str(error.value) == message


def test_a_folder_without_an_engine_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=rf"{tmp_path}/engine\.json is missing: build an engine"):
        OnnxEngine(tmp_path)


@pytest.mark.parametrize("text", ["", "{}", '{"build_config": {}}', "[1]", "\xff"])
def test_a_foreign_engine_json_is_named_in_a_line(damaged: Path, text: str) -> None:
    (damaged / "engine.json").write_text(text, encoding="latin-1")
    with pytest.raises(EngineError) as error:
        OnnxEngine(damaged)
    assert str(error.value).startswith(f"{damaged}/engine.json does not describe an engine: ")
    assert "\n" not in str(error.value)


def test_an_engine_of_another_format_is_to_be_built_anew(damaged: Path) -> None:
    """As the engines are that an earlier version built and promoted."""
    format_2 = {
        **{"format_version": 2, "architecture": "LlamaForCausalLM", "precision": "int8"},
        **{"vocab_size": 101, "num_layers": 2, "hidden_size": 64, "num_heads": 4, "head_dim": 16},
    }
    (damaged / "engine.json").write_text(json.dumps(format_2))
    with pytest.raises(EngineError) as error:
        OnnxEngine(damaged)
    assert str(error.value) == (
        f"{damaged}/engine.json does not describe an engine: Value error, it is of format 2, and "
        "this version reads format 5: build the engine anew"
    )


@pytest.mark.parametrize("file", ["segment_01.onnx", "weights.bin"])
def test_a_missing_or_damaged_graph_is_named(damaged: Path, file: str) -> None:
    (damaged / file).write_bytes((damaged / file).read_bytes()[:100])
    with pytest.raises(EngineError, match=rf"{damaged}/segment_0[01]\.onnx can't be loaded: "):
        OnnxEngine(damaged)
    (damaged / file).unlink()
    with pytest.raises(EngineError, match=rf"{damaged}/segment_0[01]\.onnx can't be loaded: "):
        OnnxEngine(damaged)


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_layers", 1), ("num_layers", 3), ("num_kv_heads", 4), ("head_dim", 8), ("vocab_size", 7)],
)
def test_a_graph_other_than_described_is_named(damaged: Path, name: str, value: int) -> None:
    edited(EngineConfig.load(damaged), name, value).save(damaged)
    with pytest.raises(
        EngineError,
        match=r"segment_0\d\.onnx is not the graph that the engine\.json|can't be loaded|rotary",
    ):
        OnnxEngine(damaged)


def test_preempted_sequences_go_on_where_they_were(load: Callable[..., OnnxEngine]) -> None:
    """Room for about two sequences: the others are put off again and again."""
    params = SamplingParams(max_tokens=40, top_p=0.95, temperature=1.5, seed=5)
    engine = load(kv_cache_bytes=6 * load().layout.block_bytes)
    sequences = add(engine, *PROMPTS, params=params)
    finish(engine)
    assert engine.scheduler.num_preempted > 2
    assert [sequence.output for sequence in sequences] == alone(load(), params)


def test_what_the_cache_can_never_hold_is_refused_with_the_figure(
    load: Callable[..., OnnxEngine],
) -> None:
    engine = load(kv_cache_bytes=3 * load().layout.block_bytes)
    check(engine, [5] * 40, max_tokens=8)
    message = (
        r"max_tokens is 9; with a prompt of 40 tokens that is 4 blocks .* has 3 \(.* 48 tokens"
    )
    with pytest.raises(InvalidRequestError, match=message):
        check(engine, [5] * 40, max_tokens=9)


@pytest.mark.parametrize("params", [GREEDY, SEEDED], ids=["greedy", "seeded"])
def test_a_warm_prefix_changes_nothing(
    load: Callable[..., OnnxEngine], params: SamplingParams
) -> None:
    (prefix,) = make_prompts(50)
    prompts = [np.concatenate([prefix, tail]) for tail in make_prompts(3, 20, 1)]
    cold = [load().generate([prompt], params)[0] for prompt in prompts]
    engine = load()
    engine.generate([prompts[0]], params)
    sequences = add(engine, *prompts, params=params)
    finish(engine)
    assert [sequence.output for sequence in sequences] == cold
    assert all(sequence.num_reused_blocks >= 3 for sequence in sequences)


def test_without_kernels_the_engine_says_the_same(
    load: Callable[..., OnnxEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = load()
    assert compiled.runner.name == "ONNX Runtime, attention in C"
    monkeypatch.setenv("TRIREME_KERNELS", "none")
    plain = load()
    assert plain.runner.name == "ONNX Runtime, attention in numpy (no kernels)"
    assert plain.generate(PROMPTS, GREEDY) == compiled.generate(PROMPTS, GREEDY)
