"""What serving may expect of an engine, held against every engine there is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from build.engine_folder import build_engine
from contract.errors import EngineError, InvalidRequestError
from python_backend.engine.engine_core import EngineCore
from python_backend.engine.onnx_engine import OnnxEngine
from python_backend.engine.sequence import SamplingParams, Sequence
from tests.build.checkpoints import make_checkpoint
from tests.python_backend.sample_engine import SampleEngine

PARAMS = SamplingParams(max_tokens=5)
MOST = 2
"""Sequences that run at once."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("engine")
    build_engine(make_checkpoint(root / "checkpoint"), root / "1", "fp32")
    return root / "1"


@pytest.fixture(params=["onnx", "sample"])
def engine(request: pytest.FixtureRequest, folder: Path) -> EngineCore:
    makers: dict[str, Callable[[], EngineCore]] = {
        "onnx": lambda: OnnxEngine(folder, max_sequences=MOST, num_threads=1),
        "sample": lambda: SampleEngine(MOST),
    }
    return makers[request.param]()


def make_prompt(*tokens: int) -> NDArray[np.int32]:
    return np.array(tokens, dtype=np.int32)


def add(engine: EngineCore, count: int, params: SamplingParams = PARAMS) -> list[Sequence]:
    sequences = [Sequence(make_prompt(5, 6 + number), params) for number in range(count)]
    for sequence in sequences:
        engine.check(sequence.prompt, sequence.params)
        engine.add(sequence)
    return sequences


def test_it_says_what_it_is(engine: EngineCore) -> None:
    assert engine.name
    assert engine.end_token_ids
    assert not engine.has_work


@pytest.mark.parametrize("tokens", [0, 5000])
def test_what_can_never_run_is_refused(engine: EngineCore, tokens: int) -> None:
    with pytest.raises(InvalidRequestError):
        engine.check(make_prompt(*[5] * tokens), PARAMS)


def test_sequences_advance_until_they_end_and_leave(engine: EngineCore) -> None:
    sequences = add(engine, 3)
    assert engine.has_work
    assert engine.stats().num_waiting == 3
    advanced = engine.step()
    assert advanced == sequences[:MOST]
    assert engine.batch_size == MOST
    assert all(len(each.output) == 1 and each.first_token_ns for each in advanced)
    assert all(each.arrival_ns <= each.first_scheduled_ns for each in advanced)
    assert (engine.stats().num_running, engine.stats().num_waiting) == (MOST, 1)
    seen = set(map(id, advanced))
    while engine.has_work:
        seen |= set(map(id, engine.step()))
    assert seen == set(map(id, sequences))
    assert {each.finish_reason for each in sequences} <= {"stop", "length"}
    assert (engine.stats().num_running, engine.stats().num_waiting) == (0, 0)


@pytest.mark.parametrize("steps", [0, 1])
def test_a_sequence_that_is_cancelled_leaves_with_a_reason(engine: EngineCore, steps: int) -> None:
    first, second = add(engine, 2)
    for _ in range(steps):
        engine.step()
    engine.cancel(first)
    assert first.finish_reason == "cancelled"
    assert engine.step() == [second]


def test_what_has_ended_can_be_cancelled_and_stays_as_it_is(engine: EngineCore) -> None:
    (sequence,) = add(engine, 1, SamplingParams(max_tokens=1, end_ids=frozenset([-1])))
    engine.step()
    engine.cancel(sequence)
    assert sequence.finish_reason == "length"
    assert not engine.has_work


@pytest.mark.parametrize("steps", [0, 1])
def test_a_sequence_that_is_dropped_has_no_reason(engine: EngineCore, steps: int) -> None:
    first, second = add(engine, 2)
    for _ in range(steps):
        engine.step()
    engine.drop(first)
    assert not first.finished
    assert engine.step() == [second]


def test_what_runs_is_given_up_and_what_waits_goes_on(
    engine: EngineCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequences = add(engine, 3)
    engine.step()
    with monkeypatch.context() as patch:
        if isinstance(engine, SampleEngine):
            engine.fails = True
        else:
            patch.setattr(engine, "_runner", BrokenRunner())
        with pytest.raises(EngineError):
            engine.step()
    assert engine.drop_running() == sequences[:MOST]
    assert not any(each.finished for each in sequences)
    assert engine.step() == sequences[MOST:]


class BrokenRunner:
    def run(self, work: object) -> None:
        raise EngineError("out of order")
