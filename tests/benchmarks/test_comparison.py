"""Whose turn it is, and what happens where one system fails."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.hardware import Hardware
from benchmarks.peers import comparison
from benchmarks.peers.comparison import Comparison
from benchmarks.peers.process import WorkerError
from benchmarks.workloads import Workload

SMALL = Workload("few", shared=0, own=2, output=3, concurrent=2)
OTHER = Workload("single", shared=0, own=1, output=2, concurrent=1)


class FakeWorker:
    def __init__(self, name: str, calls: list[Any], fails_at: int | None = None) -> None:
        self.name = name
        self.memory_bytes = 1 << 30
        self.stopped = False
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
        self.stopped = True


@pytest.fixture(autouse=True)
def hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "measure_hardware", lambda: Hardware(1, 1.0, 1.0, 1.0))


def compare(*workers: FakeWorker, rounds: int = 2) -> Comparison:
    found = Comparison(seed=1)
    for worker in workers:
        found.add(worker)  # type: ignore[arg-type]
    found.run([SMALL, OTHER], rounds)
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
    assert found.failures == {"b": "b failed"}
    assert failing.stopped
    assert found.seconds == {"few": {"a": [3.0, 5.0]}, "single": {"a": [4.0, 6.0]}}


def test_none_left_is_an_error() -> None:
    with pytest.raises(WorkerError, match="no system is left"):
        compare(FakeWorker("a", [], fails_at=1))


def test_too_much_memory_is_an_error() -> None:
    hungry = FakeWorker("a", [])
    hungry.memory_bytes = 19 << 30
    with pytest.raises(WorkerError, match=r"19.0 GiB together.*PEERS="):
        compare(hungry)
