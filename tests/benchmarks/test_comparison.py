"""Whose turn it is, and what happens where one system fails."""

from __future__ import annotations

from typing import Any, cast

import pytest

from benchmarks.hardware import Hardware
from benchmarks.peers import comparison
from benchmarks.peers.comparison import Comparison
from benchmarks.peers.prepare import PrepareError
from benchmarks.peers.process import Worker, WorkerError
from benchmarks.workloads import Workload

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

    def run(self, prompts: list[list[int]], output_tokens: int) -> float:
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
