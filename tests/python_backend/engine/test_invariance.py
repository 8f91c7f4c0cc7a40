"""A request's tokens are the same whatever else runs, in each precision and with each runner.

So are the bits of its log probabilities where the native decoder runs, which adds up in one order,
and in int8, whose products are exact. Elsewhere they were on every processor that we tried, but
ONNX Runtime promises no order of additions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from build.engine_folder import build_engine
from python_backend.engine.engine_config import Precision
from python_backend.engine.native_runner import NativeRunner
from python_backend.engine.onnx_engine import OnnxEngine
from python_backend.engine.sequence import SamplingParams, Sequence
from tests.build.checkpoints import make_checkpoint

Load = Callable[..., OnnxEngine]
Told = tuple[list[int], list[float]]
"""Tokens of a sequence and their log probabilities."""
Check = Callable[[list[Told]], bool]

VOCAB = 101
RNG = np.random.default_rng(3)
PREFIX = RNG.integers(3, VOCAB, 40, dtype=np.int32)
PROMPTS = [
    np.concatenate([PREFIX[: length % 41], RNG.integers(3, VOCAB, length, dtype=np.int32)])
    for length in RNG.permutation(np.arange(1, 65, 2))
]
"""32 prompts of 2 to 100 tokens, many of which begin alike."""

ALL = list(range(len(PROMPTS)))


VARIANTS: list[tuple[Precision, bool]] = [
    ("fp32", False),
    *(
        (precision, native)
        for precision in ("int8", "int8_block", "int4")
        for native in (True, False)
    ),
]
"""Precisions, and whether the native decoder may run; it has none for fp32."""


@pytest.fixture(scope="module", params=VARIANTS, ids=str)
def variant(request: pytest.FixtureRequest) -> tuple[Precision, bool]:
    variant: tuple[Precision, bool] = request.param
    return variant


@pytest.fixture(scope="module")
def load(variant: tuple[Precision, bool], tmp_path_factory: pytest.TempPathFactory) -> Load:
    precision, native = variant
    root = tmp_path_factory.mktemp(precision)
    build_engine(make_checkpoint(root / "checkpoint"), root / "1", precision)
    load = partial(OnnxEngine, root / "1", num_threads=2, native=native, kv_cache_bytes=16 << 20)
    if isinstance(load().runner, NativeRunner) != native:
        pytest.skip("this machine has no native decoder")
    return load


def params(index: int) -> SamplingParams:
    """Every second sequence is greedy."""
    greedy = SamplingParams(max_tokens=16, seed=index, log_probs=True)
    return replace(greedy, top_p=0.95, top_k=40, temperature=1.5) if index % 2 else greedy


def told(engine: OnnxEngine, indices: list[int]) -> list[Told]:
    """What prompts become when they are added together."""
    sequences = [Sequence(PROMPTS[index], params(index)) for index in indices]
    for sequence in sequences:
        engine.add(sequence)
    while engine.has_work:
        engine.step()
    return [(each.output, [one.chosen for one in each.log_probs]) for each in sequences]


@pytest.fixture(scope="module")
def is_alone(variant: tuple[Precision, bool], load: Load) -> Check:
    """Whether each prompt became what it becomes by itself, on one thread, in an engine that
    knows no prefix.
    """
    precision, native = variant

    def is_alone(together: list[Told]) -> bool:
        if native or precision == "int8":
            return together == alone
        tokens, log_probs = zip(*together, strict=True)
        alone_tokens, alone_log_probs = zip(*alone, strict=True)
        near = np.allclose(log_probs, alone_log_probs, rtol=0, atol=1e-4)
        return tokens == alone_tokens and near

    alone = [told(load(num_threads=1), [index])[0] for index in ALL]
    return is_alone


def test_among_31_others(load: Load, is_alone: Check) -> None:
    engine = load()
    assert is_alone(told(engine, ALL))
    assert engine.scheduler.num_reused_blocks > 0


def test_with_every_prefix_warm(load: Load, is_alone: Check) -> None:
    engine = load()
    told(engine, ALL)
    known = engine.scheduler.num_reused_blocks
    assert is_alone(told(engine, ALL))
    assert engine.scheduler.num_reused_blocks - known > 3 * known


@pytest.mark.parametrize("max_num_tokens", [5, 48])
def test_cut_into_chunks(load: Load, is_alone: Check, max_num_tokens: int) -> None:
    assert is_alone(told(load(max_num_tokens=max_num_tokens), ALL))


def test_put_off_for_want_of_memory(load: Load, is_alone: Check) -> None:
    engine = load(kv_cache_bytes=20 * load().layout.block_bytes)
    assert is_alone(told(engine, ALL))
    assert engine.scheduler.num_preempted > 5
