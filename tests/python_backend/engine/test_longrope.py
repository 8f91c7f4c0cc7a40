"""LongRoPE: sequences that stay within the original context are turned by the short factors.

Which of the two a sequence has is told by its prompt and ``max_tokens`` alone, so it is the same in
any company. Of the checkpoint there are two more engines to compare with, each with one set for all
sequences: one for the original context alone, and one of a checkpoint that has the long factors
twice.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from build.engine_folder import build_engine
from contract.errors import EngineError
from python_backend.engine.engine_config import (
    ROTARY_FILE,
    SMOOTHING_FILE,
    EngineConfig,
    Precision,
)
from python_backend.engine.native_runner import NativeRunner
from python_backend.engine.onnx_engine import OnnxEngine
from python_backend.engine.sequence import LogProbs, SamplingParams, Sequence
from tests.build.checkpoints import KINDS, make_checkpoint

VOCAB, ORIGINAL, CONTEXT = 101, 64, 128
LONG_FACTOR = KINDS["phi3-long"]["rope_scaling"]["long_factor"]

Told = tuple[list[int], list[LogProbs]]
"""Tokens of a sequence and how likely they were."""


class Variant(NamedTuple):
    """A precision, and what computes it."""

    precision: Precision
    native: bool
    kernels: bool = True


class Engines(NamedTuple):
    """The same weights, turned in three ways.

    Attributes:
        both: As the checkpoint has it.
        short: Of the short factors alone.
        long: Of the long ones alone.
        variant: What computes.
    """

    both: Path
    short: Path
    long: Path
    variant: Variant

    def load(self, folder: Path, **settings: int) -> OnnxEngine:
        small = {"num_threads": 2, "kv_cache_bytes": 1 << 22, **settings}
        return OnnxEngine(folder, native=self.variant.native, **small)  # type: ignore[arg-type]


VARIANTS = [
    Variant("fp32", native=False),
    Variant("fp32", native=False, kernels=False),
    Variant("int8", native=False),
    Variant("int8", native=True),
    Variant("int4", native=True),
]


@pytest.fixture(scope="module", params=VARIANTS, ids=str)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Engines:
    variant: Variant = request.param
    root = tmp_path_factory.mktemp("engines")
    checkpoint = make_checkpoint(root / "checkpoint", "phi3-long")
    scaling = {**KINDS["phi3-long"]["rope_scaling"], "short_factor": LONG_FACTOR}
    other = make_checkpoint(root / "other", "phi3-long", rope_scaling=scaling)
    engines = Engines(root / "both", root / "short", root / "long", variant)
    build_engine(checkpoint, engines.both, variant.precision)
    build_engine(checkpoint, engines.short, variant.precision, context_length=ORIGINAL)
    build_engine(other, engines.long, variant.precision)
    if (engines.both / SMOOTHING_FILE).exists():  # which follows from the factors
        for each in (engines.short, engines.long):
            shutil.copy(engines.both / SMOOTHING_FILE, each)
    return engines


@pytest.fixture
def engines(built: Engines, monkeypatch: pytest.MonkeyPatch) -> Engines:
    if not built.variant.kernels:
        monkeypatch.setenv("TRIREME_KERNELS", "none")
    if isinstance(built.load(built.both).runner, NativeRunner) != built.variant.native:
        pytest.skip("this machine has no native decoder")
    return built


def prompt(length: int) -> NDArray[np.int32]:
    return np.random.default_rng(5).integers(3, VOCAB, length, dtype=np.int32)


def told(engine: OnnxEngine, *asked: tuple[int, int]) -> list[Told]:
    """What prompts of so many tokens become, with so many tokens of output, all together."""
    sequences = [
        Sequence(prompt(length), SamplingParams(most, log_probs=True, num_top_log_probs=20))
        for length, most in asked
    ]
    for each in sequences:
        engine.add(each)
    while engine.has_work:
        engine.step()
    return [(each.output, each.log_probs) for each in sequences]


ALL = [(40, 24), (40, 25), (3, 5), (3, 62), (63, 1), (100, 20), (1, 63), (60, 40)]
"""Some of them within 64 tokens, and of each kind several that begin alike."""
SHORT = [each for each in ALL if sum(each) <= ORIGINAL]
LONG = [each for each in ALL if sum(each) > ORIGINAL]


def test_short_sequences_have_the_short_factors_and_long_ones_the_long(engines: Engines) -> None:
    both, short, long = (engines.load(each) for each in engines[:3])
    for each in SHORT:
        assert told(both, each) == told(short, each) != told(long, each)
    for each in LONG:
        assert told(both, each) == told(long, each)


def test_each_keeps_to_its_factors_in_any_company(engines: Engines) -> None:
    alone = [told(engines.load(engines.both), each)[0] for each in ALL]
    exact = engines.variant.precision != "fp32"

    def same(found: list[Told]) -> bool:
        if exact:
            return found == alone
        pairs = list(zip(found, alone, strict=True))
        near = [
            np.allclose([p.chosen for p in one[1]], [p.chosen for p in two[1]], atol=1e-4)
            for one, two in pairs
        ]
        return all(near) and all(one[0] == two[0] for one, two in pairs)

    assert same(told(engines.load(engines.both), *ALL))
    assert same(told(engines.load(engines.both, max_num_tokens=7), *ALL))
    little = engines.load(engines.both)
    little = engines.load(engines.both, kv_cache_bytes=12 * little.layout.block_bytes)
    assert same(told(little, *ALL))
    assert little.scheduler.num_preempted > 0
    known = engines.load(engines.both)
    told(known, *ALL)
    reused = known.scheduler.num_reused_blocks
    assert same(told(known, *ALL))
    assert known.scheduler.num_reused_blocks > reused


def test_a_short_and_a_long_sequence_that_begin_alike_share_no_keys(engines: Engines) -> None:
    engine = engines.load(engines.both)
    for asked, reused in (((50, 14), 0), ((50, 15), 0), ((50, 14), 3), ((50, 40), 6)):
        told(engine, asked)
        assert engine.scheduler.num_reused_blocks == reused


def test_an_engine_for_the_original_context_has_one_table(built: Engines) -> None:
    assert EngineConfig.load(built.both).short_context == ORIGINAL
    assert EngineConfig.load(built.short).short_context == 0
    shapes = [np.load(each / ROTARY_FILE).shape for each in built[:2]]
    assert shapes == [(2, CONTEXT + ORIGINAL, 4), (2, ORIGINAL, 4)]


def test_a_table_of_too_few_rows_is_refused(built: Engines, tmp_path: Path) -> None:
    """The kernels would read past it."""
    folder = shutil.copytree(built.both, tmp_path / "engine")
    np.save(folder / ROTARY_FILE, np.load(folder / ROTARY_FILE)[:, :CONTEXT].copy())
    with pytest.raises(EngineError, match=r"rotary\.npy is not this engine's"):
        built.load(folder)
