"""The long run: its traffic, what it watches, and when it says that memory is flat."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from typing import Any

import pytest

from benchmarks.memory_use import family, memory_bytes
from benchmarks.soak.soak_picture import draw
from benchmarks.soak.soak_report import GROWTH_BYTES, Growth, Report, growths
from benchmarks.soak.traffic import draw_request
from benchmarks.soak.watch import GAUGES, Sample, parse_gauges
from clients.perf.load_report import Machine

MIB = 1 << 20


def sample(time_s: float, completed: int = 5, **memory_mib: float) -> Sample:
    return Sample(
        time_s,
        {name: int(value * MIB) for name, value in memory_mib.items()},
        dict.fromkeys(GAUGES, 1.0),
        {"completed": completed, "left": 1, "failed": 0, "tokens": 100},
    )


def report(samples: list[Sample], **changes) -> Report:
    values: dict[str, Any] = {
        "date": "2026-11-20T00:00:00+00:00",
        "revision": None,
        "machine": Machine("a processor", 2, 24.0),
        "minutes": 1.0,
        "concurrency": 4,
        "settings": ["a=1"],
        "samples": samples,
        "errors": {},
        "used_blocks_at_rest": 0,
    }
    return Report(**{**values, **changes})


def test_memory_that_rises_only_at_first_is_flat() -> None:
    samples = [sample(t, engine=min(100 + 50 * t, 300)) for t in range(16)]
    found = report(samples)
    assert growths(samples) == {"engine": Growth(300 * MIB, 300 * MIB)}
    assert found.problems == []


def test_memory_that_goes_on_rising_is_not() -> None:
    samples = [sample(t, engine=300 + 2 * t, text=40) for t in range(16)]
    (problem,) = report(samples).problems
    assert problem == "engine grew from 311 to 327 MiB"


def test_what_allocators_vary_by_is_flat() -> None:
    assert Growth(100 * MIB, 100 * MIB + GROWTH_BYTES).is_flat
    assert not Growth(100 * MIB, 100 * MIB + GROWTH_BYTES + 1).is_flat
    assert Growth(10_000 * MIB, 10_200 * MIB).is_flat
    assert not Growth(10_000 * MIB, 10_201 * MIB).is_flat


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"used_blocks_at_rest": 3}, "3 blocks are held though nothing runs"),
        ({"errors": {"Boom: x": 2}}, "2 × Boom: x"),
    ],
)
def test_other_problems_are_told(changes, problem: str) -> None:
    samples = [sample(t, engine=100) for t in range(8)]
    assert report(samples, **changes).problems == [problem]


def test_a_process_that_was_replaced_is_a_problem() -> None:
    samples = [sample(t, engine=100) for t in range(7)] + [sample(7, other=100)]
    assert "the server's processes are not those that it began with" in report(samples).problems


def test_a_run_that_completed_nothing_is_a_problem() -> None:
    samples = [sample(t, completed=0, engine=100) for t in range(8)]
    assert report(samples).problems == ["no request was completed"]


def test_too_few_samples_are_an_error() -> None:
    with pytest.raises(ValueError, match="7 samples are too few"):
        growths([sample(t, engine=100) for t in range(7)])


def test_the_report_and_its_picture(tmp_path) -> None:
    found = report([sample(t, engine=100) for t in range(8)])
    content = json.loads(found.to_json())
    assert content["growth"]["engine"]["is_flat"]
    assert content["problems"] == []
    draw(found, tmp_path / "soak.png")
    assert (tmp_path / "soak.png").read_bytes().startswith(b"\x89PNG")
    assert "flat" in found.summary()


def test_the_mix_has_all_that_it_promises() -> None:
    rng = random.Random(0)
    requests = [draw_request(rng) for _ in range(500)]
    assert {request.options.priority for request in requests} == {1, 2, 3, 4, 5}
    assert {request.stream for request in requests} == {True, False}
    leaving = [request for request in requests if request.pieces]
    assert 30 < len(leaving) < 150
    assert all(request.stream for request in leaving)
    long = [request.prompt for request in requests if len(request.prompt) > 700]
    beginnings = [prompt[:700] for prompt in long]
    assert any(beginnings.count(beginning) > 10 for beginning in set(beginnings))
    again = random.Random(0)
    assert [draw_request(again).prompt for _ in range(5)] == [r.prompt for r in requests[:5]]


def test_gauges_are_read_from_prometheus_text() -> None:
    text = "# TYPE trireme_running_sequences gauge\n" + "".join(
        f'trireme_{name}{{model="tensorrt_llm",version="1"}} {value}\n'
        for value, name in enumerate(GAUGES)
    )
    assert parse_gauges(text) == {name: float(value) for value, name in enumerate(GAUGES)}


def test_memory_is_that_of_a_process_and_its_children() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        assert {os.getpid(), child.pid} <= set(family(os.getpid()))
        assert memory_bytes(os.getpid()) > MIB
    finally:
        child.kill()
        child.wait()
    assert memory_bytes(child.pid) == 0
