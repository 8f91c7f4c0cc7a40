"""A worker over its real protocol: a process of its own, stopped between its turns."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers.process import Worker, WorkerError

MakeWorker = Callable[..., Worker]


@pytest.fixture
def make_worker(tmp_path: Path) -> Iterator[MakeWorker]:
    workers = []

    def make(mode: str = "good", timeout_s: float = 60) -> Worker:
        command = [sys.executable, "-m", "tests.benchmarks.fake_worker", "serve"]
        command += ["--model", str(tmp_path), "--options", json.dumps({"mode": mode})]
        workers.append(Worker("fake", command, tmp_path / "log", timeout_s))
        return workers[-1]

    yield make
    for worker in workers:
        worker.stop(grace_s=1)


def state(worker: Worker) -> str:
    return Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()[0]


def await_state(worker: Worker, expected: str) -> None:
    deadline = time.monotonic() + 30
    while state(worker) != expected and time.monotonic() < deadline:
        time.sleep(0.01)
    assert state(worker) == expected


def test_a_worker_says_what_it_is_and_generates(make_worker: MakeWorker) -> None:
    worker = make_worker()
    assert worker.ready["settings"] == {"kind": "fake"}
    assert worker.ready["versions"] == {"numpy": np.__version__}
    assert worker.run([[1, 2], [3]], 4) >= 0
    assert worker.run([[5]], 1) >= 0
    assert worker.memory_bytes > 1 << 20


def test_answers_may_end_and_count_at_their_rate(make_worker: MakeWorker) -> None:
    worker = make_worker("ends")
    assert worker.run([[1], [2], [3]], 4, end_ids=[7]) > 0  # 0, 1 and 2 tokens
    with pytest.raises(WorkerError, match=r"generated \[0, 1, 2\]"):
        worker.run([[1], [2], [3]], 4)
    # Nothing at all says nothing of a rate.
    with pytest.raises(WorkerError, match=r"generated \[0\]"):
        worker.run([[1]], 4, end_ids=[7])


def test_seconds_of_answers_that_ended_are_those_of_all_tokens(
    make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = make_worker()
    monkeypatch.setattr(worker, "_ask", lambda _: {"seconds": 3.0, "generated": [1, 2]})
    assert worker.run([[1], [2]], 4, end_ids=[7]) == 8.0


def test_a_worker_says_what_it_predicts(make_worker: MakeWorker, tmp_path: Path) -> None:
    worker = make_worker()
    for tokens in ([1, 2, 3], [4, 5, 6]):
        found = worker.logits(tokens, 2, tmp_path / "logits")
        assert found.argmax(axis=1).tolist() == tokens[1:]
    assert found.shape == (2, 9)
    await_state(worker, "T")
    with pytest.raises(WorkerError, match="the last token's alone"):
        make_worker("short").logits([1, 2], 1, tmp_path / "logits")


def test_a_worker_is_stopped_between_its_turns(make_worker: MakeWorker) -> None:
    worker = make_worker()
    await_state(worker, "T")
    worker.run([[1]], 2)
    await_state(worker, "T")


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("short", r"asked for 4 tokens for each of 2 prompts and generated \[3, 3\]"),
        ("fail", "ValueError: no such kernel"),
        ("die", "fake ended"),
    ],
)
def test_a_failure_is_told(make_worker: MakeWorker, mode: str, message: str) -> None:
    with pytest.raises(WorkerError, match=message):
        make_worker(mode).run([[1], [2]], 4)


def test_one_that_cannot_load_tells_why(make_worker: MakeWorker) -> None:
    with pytest.raises(WorkerError, match=r"(?s)fake ended.*FileNotFoundError"):
        make_worker("unloadable")


def test_silence_is_an_error(make_worker: MakeWorker) -> None:
    worker = make_worker("hang")
    worker.timeout_s = 0.2
    with pytest.raises(WorkerError, match=r"was silent for 0\.2 s"):
        worker.run([[1]], 2)


def test_a_stopped_worker_does_not_outlive_its_orchestrator(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from benchmarks.peers.process import Worker; "
        "worker = Worker('fake', [sys.executable, '-m', 'tests.benchmarks.fake_worker', 'serve', "
        f"'--model', '.'], Path({str(tmp_path / 'log')!r})); "
        "print(worker.pid, flush=True); time.sleep(60)"
    )
    orchestrator = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert orchestrator.stdout is not None
    pid = int(orchestrator.stdout.readline())
    orchestrator.send_signal(signal.SIGKILL)
    orchestrator.wait()
    orchestrator.stdout.close()
    deadline = time.monotonic() + 30
    while _alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _alive(pid)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
