"""A prompt's log probabilities are those that its tokens have where they are generated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from build.engine_folder import build_engine
from contract.errors import InvalidRequestError
from python_backend.engine.onnx_engine import OnnxEngine
from python_backend.engine.sequence import LogProbs, SamplingParams, Sequence
from tests.build.checkpoints import make_checkpoint

CONTEXT, VOCAB = 128, 101
RNG = np.random.default_rng(8)
PROMPTS = [RNG.integers(3, VOCAB, length, dtype=np.int32) for length in (1, 7, 40, 19, 2)]
GENERATED = SamplingParams(
    max_tokens=30, top_p=0.9, temperature=2, seed=1, log_probs=True, num_top_log_probs=2
)
SCORED = SamplingParams(max_tokens=0, num_prompt_log_probs=30, num_top_log_probs=2)

Load = Callable[..., OnnxEngine]


@pytest.fixture(scope="module", params=["fp32", "int8"])
def load(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Load:
    root: Path = tmp_path_factory.mktemp(request.param)
    build_engine(make_checkpoint(root / "checkpoint"), root / "1", request.param)
    return partial(OnnxEngine, root / "1", num_threads=1)


def run(engine: OnnxEngine, *sequences: Sequence) -> list[Sequence]:
    for sequence in sequences:
        engine.check(sequence.prompt, sequence.params)
        engine.add(sequence)
    while engine.has_work:
        engine.step()
    return list(sequences)


@pytest.fixture(scope="module")
def generated(load: Load) -> list[Sequence]:
    return run(load(), *(Sequence(prompt, GENERATED) for prompt in PROMPTS))


def texts(generated: list[Sequence]) -> list[NDArray[np.int32]]:
    return [each.tokens() for each in generated]


def same(engine: OnnxEngine, found: list[LogProbs], expected: list[LogProbs]) -> bool:
    if engine.runner.name.startswith("native"):
        return found == expected
    ids = [each.top_ids for each in found] == [each.top_ids for each in expected]
    chosen, top = ([each[field] for each in found] for field in (0, 2))
    others, other_top = ([each[field] for each in expected] for field in (0, 2))
    near = partial(np.allclose, rtol=0, atol=1e-4)
    return ids and near(chosen, others) and near(top, other_top)


@pytest.mark.parametrize(
    "settings",
    [{}, {"spare_rows": 0}, {"spare_rows": 5, "max_num_tokens": 17}, {"max_sequences": 2}],
    ids=str,
)
def test_they_are_those_of_the_same_tokens_generated(
    load: Load, generated: list[Sequence], settings: dict[str, Any]
) -> None:
    engine = load(**settings)
    for _ in range(2):  # the second time every prefix is known
        scored = run(engine, *(Sequence(text, SCORED) for text in texts(generated)))
        for one, other in zip(scored, generated, strict=True):
            assert same(engine, one.prompt_log_probs, other.log_probs)
            assert (one.output, one.finish_reason) == ([], "length")
    assert engine.scheduler.num_reused_blocks == 2 + 1  # of the prompts of 40 and 19
    assert engine.scheduler.pool.num_used == 0


def test_they_are_the_same_where_memory_is_short(load: Load, generated: list[Sequence]) -> None:
    """Beside sequences that grow and put them off."""
    engine = load(kv_cache_bytes=7 * load().layout.block_bytes, spare_rows=3, max_num_tokens=12)
    growing = [Sequence(prompt, GENERATED) for prompt in PROMPTS]
    scored = [Sequence(text, replace(SCORED, max_tokens=9)) for text in texts(generated)]
    run(engine, *(each for pair in zip(scored, growing, strict=True) for each in pair))
    assert engine.scheduler.num_preempted > 0
    for one, twin, other in zip(scored, growing, generated, strict=True):
        assert same(engine, one.prompt_log_probs, other.log_probs)
        assert same(engine, twin.log_probs, other.log_probs)
        assert len(one.output) == 9


def test_all_tokens_but_the_first_can_be_scored(load: Load, generated: list[Sequence]) -> None:
    every = replace(SCORED, num_prompt_log_probs=CONTEXT)
    scored = run(load(), *(Sequence(text, every) for text in texts(generated)))
    for one, other in zip(scored, generated, strict=True):
        assert len(one.prompt_log_probs) == len(one.prompt) - 1
        assert same(load(), one.prompt_log_probs[-30:], other.log_probs)


def test_a_text_that_fills_the_context_can_be_scored(load: Load) -> None:
    text = RNG.integers(3, VOCAB, CONTEXT, dtype=np.int32)
    (scored,) = run(load(), Sequence(text, SCORED))
    assert len(scored.prompt_log_probs) == 30
    engine = load()
    message = f"the prompt has {CONTEXT} tokens; with the context of {CONTEXT} tokens it can have"
    with pytest.raises(InvalidRequestError, match=f"{message} at most {CONTEXT - 1}"):
        engine.check(text, replace(SCORED, max_tokens=1))
    with pytest.raises(InvalidRequestError, match=f"at most {CONTEXT}"):
        engine.check(np.append(text, text[:1]), SCORED)


def test_what_is_scored_is_the_models_own_though_its_logits_are_shaped(
    load: Load, generated: list[Sequence]
) -> None:
    shaped = replace(
        SCORED,
        max_tokens=5,
        repetition_penalty=1.5,
        embedding_bias=np.arange(VOCAB, dtype=np.float32),
    )
    scored = run(load(), *(Sequence(text, shaped) for text in texts(generated)))
    for one, other in zip(scored, generated, strict=True):
        assert same(load(), one.prompt_log_probs, other.log_probs)
