"""Guided sequences in an engine: what they become depends on nobody else."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from build.engine_folder import build_engine
from contract.errors import GenerationError
from python_backend.engine.attention import can_attend_int8
from python_backend.engine.onnx_engine import OnnxEngine
from python_backend.engine.sequence import SamplingParams, Sequence
from tests.build.checkpoints import make_checkpoint

VOCAB = 101
FORCED = [7, 8, 9]


class Even:
    """Even tokens alone; after a 4 three more are certain, and after ten tokens none may follow."""

    def __init__(self, breaks_at: int = -1) -> None:
        self.failure: Exception | None = None
        self.prepared: list[int] | None = None
        self._breaks_at = breaks_at

    def prepare(self, output: list[int]) -> None:
        self.prepared = list(output)

    def shape(self, row: NDArray[np.float32], output: list[int]) -> None:
        assert self.prepared is not None
        assert self.prepared == output[: len(self.prepared)]
        row[1::2] = -np.inf
        if 0 <= self._breaks_at <= len(output):
            self.failure = GenerationError("broken")

    def forced(self, output: list[int]) -> list[int]:
        return FORCED if output[-1] % 8 == 4 else []

    def is_complete(self, output: list[int]) -> bool:
        return len(output) >= 30


@pytest.fixture(scope="module", params=["fp32", "int8"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> OnnxEngine:
    if request.param == "int8" and not can_attend_int8(1):
        pytest.skip("not this processor's")
    folder = tmp_path_factory.mktemp(request.param)
    build_engine(make_checkpoint(folder / "checkpoint"), folder / "1", request.param)
    return OnnxEngine(folder / "1", max_num_tokens=24)


def sequence(seed: int, guide: Even | None, **params: object) -> Sequence:
    prompt = np.random.default_rng(seed).integers(3, VOCAB, 5 + 7 * seed, dtype=np.int32)
    sampling = SamplingParams(max_tokens=40, temperature=1, top_k=20, seed=seed, **params)  # type: ignore[arg-type]
    return Sequence(prompt, sampling, guide=guide)


def run(engine: OnnxEngine, *sequences: Sequence) -> None:
    for each in sequences:
        engine.add(each)
    while engine.has_work:
        for each in engine.step():
            assert each.num_new_tokens >= 1 or each.finished


def test_guided_sequences_are_the_same_in_any_company(engine: OnnxEngine) -> None:
    alone = [sequence(seed, Even()) for seed in range(6)]
    for each in alone:
        run(engine, each)
    together = [sequence(seed, Even()) for seed in range(6)]
    free = [sequence(seed, None) for seed in range(6)]
    before = [sequence(seed, None) for seed in range(6)]
    run(engine, *before)
    run(engine, *together, *free)
    assert [each.output for each in together] == [each.output for each in alone]
    assert [each.output for each in free] == [each.output for each in before]
    for each in together:
        text = [token for token in each.output if token not in FORCED]
        assert text
        assert all(token % 2 == 0 for token in text)
        assert any(token % 2 for token in each.output), "none was forced"
        assert each.finish_reason in ("stop", "length")
        assert each.num_generated == len(each.output)


def test_drafts_change_nothing(engine: OnnxEngine) -> None:
    alone, drafted = sequence(3, Even()), sequence(3, Even())
    run(engine, alone)
    engine.add(drafted)
    while engine.has_work:
        drafted.drafts = alone.output[len(drafted.output) :][:4]
        engine.step()
    assert drafted.output == alone.output


def test_one_that_cannot_go_on_leaves_alone(engine: OnnxEngine) -> None:
    broken, other, alone = sequence(1, Even(3)), sequence(2, Even()), sequence(2, Even())
    run(engine, alone)
    run(engine, broken, other)
    assert str(broken.failure) == "broken"
    assert broken.finish_reason == ""
    assert other.output == alone.output
    assert engine.stats().num_used_blocks == 0


def test_log_probabilities_are_the_models_own(engine: OnnxEngine) -> None:
    guided = sequence(4, Even(), log_probs=True)
    run(engine, guided)
    assert len(guided.log_probs) == len(guided.output)
    assert not any(token % 2 for token in guided.output)
