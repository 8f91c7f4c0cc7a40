"""Whose turn it is, and what happens where one system fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.hardware import Hardware
from benchmarks.peers import comparison
from benchmarks.peers.comparison import Comparison
from benchmarks.peers.prepare import PrepareError
from benchmarks.peers.process import Worker, WorkerError
from benchmarks.workloads import Workload
from build.quality.closeness import Kept, Passage

SMALL = Workload("few", shared=0, own=2, output=3, concurrent=2)
OTHER = Workload("single", shared=0, own=1, output=2, concurrent=1)


class FakeWorker:
    def __init__(self, name: str, calls: list[Any], fails_at: int | None = None) -> None:
        self.name = name
        self.ready = {"load_s": float(ord(name))}
        self.memory_bytes = 1 << 30
        self.stopped = 0
        self._calls = calls
        self._fails_at = fails_at
        self._turns = 0

    def run(self, prompts: list[list[int]], output_tokens: int, ends: Any = ()) -> float:
        self.ends = ends
        self._turns += 1
        if self._turns == self._fails_at:
            raise WorkerError(f"{self.name} failed")
        self._calls.append((self.name, prompts, output_tokens))
        return float(self._turns)

    def stop(self) -> None:
        self.stopped += 1


@pytest.fixture(autouse=True)
def hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "measure_hardware", lambda: Hardware(1, 1.0, 1.0, 1.0))


def compare(*workers: FakeWorker, memory_gib: int = 16) -> Comparison:
    by_name = {worker.name: worker for worker in workers}

    def start(name: str) -> Worker:
        if name not in by_name:
            raise PrepareError(f"{name} can't be installed")
        return cast(Worker, by_name[name])

    found = Comparison(1, start, memory_gib << 30)
    for name in (*by_name, "z"):
        found.load(name)
    found.run([SMALL, OTHER], rounds=2)
    found.close()
    return found


def test_systems_take_turns_on_the_same_prompts() -> None:
    calls: list[Any] = []
    found = compare(FakeWorker("a", calls), FakeWorker("b", calls))
    assert [name for name, _, _ in calls] == [*"abab", *"baba", *"abab"]
    for first, second in zip(calls[::2], calls[1::2], strict=True):
        assert first[1:] == second[1:]
    prompts = [str(prompts) for _, prompts, _ in calls[::2]]
    assert len(set(prompts)) == len(prompts)  # new ones for each turn
    # The round that warms up doesn't count.
    assert found.seconds == {
        "few": {"a": [3.0, 5.0], "b": [3.0, 5.0]},
        "single": {"a": [4.0, 6.0], "b": [4.0, 6.0]},
    }


def test_questions_are_new_and_answers_may_end() -> None:
    talk = Workload("one talk", shared=0, own=0, output=3, concurrent=2, is_talk=True)
    calls: list[Any] = []
    worker = FakeWorker("a", calls)
    questions = comparison.Questions([[place] for place in range(12)], [7])
    found = Comparison(1, lambda _: cast(Worker, worker), questions=questions)
    found.load("a")
    found.run([talk], rounds=2)
    asked = [prompt for _, prompts, _ in calls for prompt in prompts]
    assert len(asked) == 6
    assert len({tuple(each) for each in asked}) == 6
    assert worker.ends == (7,)
    found.run([SMALL], rounds=1)
    assert worker.ends == ()


class Predicting(FakeWorker):
    """Predicts the token that it read, more or less surely."""

    def __init__(self, name: str, sure: float | None) -> None:
        super().__init__(name, [])
        self._sure = sure

    def logits(self, tokens: list[int], rows: int, file: Path) -> NDArray[np.float32]:
        if self._sure is None:
            raise WorkerError(f"{self.name} can't say")
        return np.float32(self._sure) * np.eye(9, dtype=np.float32)[tokens[-rows:]]


class Reference:
    def __init__(self) -> None:
        self.read = 0

    def logits(self, tokens: NDArray[np.int32], rows: int) -> NDArray[np.float32]:
        self.read += 1
        return 3 * np.eye(9, dtype=np.float32)[tokens[-rows:]]


def test_each_system_is_read_beside_the_reference_and_one_that_can_not_say_stays(
    tmp_path: Path,
) -> None:
    workers = {each.name: each for each in (Predicting("a", 3), Predicting("b", None))}
    workers["c"] = Predicting("c", 2)
    found = Comparison(1, lambda name: cast(Worker, workers[name]))
    for name in workers:
        found.load(name)
    reference = Reference()
    passages = [Passage(np.arange(start, start + 5, dtype=np.int32), 4) for start in (0, 3)]
    shelves = {name: Kept(tmp_path / name) for name in workers}
    found.read(reference, passages, ord, shelves.__getitem__)
    assert list(found.quality) == ["a", "c"]
    assert list(found.ready) == ["a", "b", "c"]
    assert reference.read == 2  # for all of them
    again = Comparison(1, lambda name: cast(Worker, Predicting(name, None)))
    for name in ("a", "c"):
        again.load(name)
    again.read(reference, passages, ord, shelves.__getitem__)
    assert again.quality == found.quality
    assert found.quality["c"].size_bytes == ord("c")
    assert found.quality["a"].closeness.divergence == pytest.approx(0, abs=1e-6)
    assert found.quality["c"].closeness.divergence > 0.01
    assert found.quality["a"].is_no_worse(found.quality["c"])
    assert not found.quality["c"].is_no_worse(found.quality["a"])


def test_one_that_fails_leaves_and_the_others_go_on() -> None:
    calls: list[Any] = []
    failing = FakeWorker("b", calls, fails_at=4)
    found = compare(FakeWorker("a", calls), failing)
    assert found.failures == {"b": "b failed", "z": "z can't be installed"}
    assert list(found.ready) == ["a"]
    assert failing.stopped == 1
    assert found.seconds == {"few": {"a": [3.0, 5.0]}, "single": {"a": [4.0, 6.0]}}


def test_none_left_is_an_error() -> None:
    with pytest.raises(WorkerError, match="no system is left"):
        compare(FakeWorker("a", [], fails_at=1))


def test_where_memory_is_short_what_loads_quickest_is_loaded_anew() -> None:
    calls: list[Any] = []
    quick, slow = FakeWorker("a", calls), FakeWorker("b", calls)
    found = compare(quick, slow, memory_gib=1)
    # One fits, so every turn loads; each is warmed up on other prompts, then measured.
    names = [name for name, _, _ in calls]
    assert names[-4:] == ["a", "a", "b", "b"]
    assert all(calls[i][1] != calls[i + 1][1] for i in (-4, -2))
    assert calls[-3][1:] == calls[-1][1:]
    assert [len(found.seconds["few"][name]) for name in "ab"] == [2, 2]
    assert quick.stopped > 3


def test_what_fits_stays() -> None:
    calls: list[Any] = []
    workers = [FakeWorker(name, calls) for name in "abc"]
    compare(*workers, memory_gib=2)
    assert workers[2].stopped < workers[0].stopped  # the slowest to load ends the least often
