"""Load tests: from perf_analyzer's record to figures, a table and a picture.

`profile_export.json` is what perf_analyzer recorded of six requests to the demo model, two at a
time, asking for five and three tokens; outputs that nobody reads were taken out.
"""

from __future__ import annotations

import json
import stat
import sys
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from clients.perf import __main__ as command
from clients.perf.load import Load, LoadError, read_prompts
from clients.perf.load_picture import draw
from clients.perf.load_report import Report
from clients.perf.profile import Level, Percentiles, ProfileError, measure
from contract.models import ENSEMBLE_MODEL

RECORDED = Path(__file__).with_name("profile_export.json")
PROMPTS = Path(__file__).parents[2] / "clients" / "perf_analyzer.json"
MS = 1_000_000


def export(*requests: tuple[int, list[int]], concurrency: int = 1) -> dict[str, Any]:
    """A profile export: when each request was sent and its responses came, in milliseconds."""
    return {
        "experiments": [
            {
                "experiment": {"mode": "concurrency", "value": concurrency},
                "requests": [
                    {
                        "timestamp": sent * MS,
                        "response_timestamps": [each * MS for each in received],
                        "response_outputs": [
                            {"text_output": "x", "finish_reason": "", "num_output_tokens": 1}
                            for _ in received
                        ],
                    }
                    for sent, received in requests
                ],
                "window_boundaries": [0, 1000 * MS],
            }
        ]
    }


def test_durations() -> None:
    level = measure(export((0, [30, 40, 50]), (50, [90, 100, 110]), (110, [130, 140, 150])))
    assert level.time_to_first_token_ms.p50 == pytest.approx(30)
    assert level.inter_token_latency_ms == Percentiles(10, 10, 10)
    assert level.request_latency_ms.p50 == pytest.approx(50)
    assert level.request_latency_ms.p99 == pytest.approx(60, abs=0.3)


def test_rates_are_of_the_steady_part() -> None:
    # Up to 100 ms; the request that ran beside the last one is not in the record.
    level = measure(export((0, [50, 100]), (0, [50, 100]), (100, [150, 200]), concurrency=2))
    assert level.duration_s == pytest.approx(0.1)
    assert level.requests_per_s == pytest.approx(20)
    assert level.output_tokens_per_s == pytest.approx(20)
    assert (level.concurrency, level.requests, level.output_tokens) == (2, 3, 6)


def test_recorded_export() -> None:
    level = measure(json.loads(RECORDED.read_text()))
    assert (level.concurrency, level.requests) == (2, 6)
    assert level.output_tokens == 3 * 5 + 3 * 3  # and not the flags that end the streams
    assert 4 < level.time_to_first_token_ms.p50 < 18
    assert level.inter_token_latency_ms is not None
    assert level.inter_token_latency_ms.p50 < level.inter_token_latency_ms.p99 < 3


def test_answers_of_one_token() -> None:
    level = measure(export((0, [10]), (10, [20]), (20, [30])))
    assert level.inter_token_latency_ms is None


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({}, "no profile export"),
        ({"experiments": []}, "no profile export"),
        (export(), "saw no answer"),
        (export((0, [50, 100])), "measure for longer"),
    ],
)
def test_what_cannot_be_measured(record: dict[str, Any], message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        measure(record)


LEVELS = tuple(
    Level(
        concurrency=concurrency,
        requests=10,
        output_tokens=640,
        duration_s=9.5,
        requests_per_s=1.25,
        output_tokens_per_s=80.4 * concurrency,
        time_to_first_token_ms=Percentiles(12.34, 56.78, 901.2),
        inter_token_latency_ms=None if concurrency == 1 else Percentiles(1, 2, 3),
        request_latency_ms=Percentiles(100, 200, 300),
    )
    for concurrency in (1, 2, 32)
)


@pytest.fixture
def report() -> Report:
    started = datetime(2026, 11, 20, 12, tzinfo=timezone.utc)
    return Report.of(LEVELS, {"model": "ensemble", "measurement_s": 10.0}, "2.51.0", started)


def test_table(report: Report) -> None:
    table = report.to_markdown()
    assert "| 1 | 80 | 1.25 | 12.3 / 56.8 / 901 | – | 100 / 200 / 300 | 10 |" in table
    assert (
        "| 32 | 2573 | 1.25 | 12.3 / 56.8 / 901 | 1.0 / 2.0 / 3.0 | 100 / 200 / 300 | 10 |" in table
    )
    assert "- date: 2026-11-20T12:00:00+00:00" in table
    assert "tritonserver 2.51.0" in table


def test_json_has_what_is_needed_to_measure_again(report: Report) -> None:
    kept = json.loads(report.to_json())
    assert kept["levels"][2]["time_to_first_token_ms"]["p99"] == 901.2
    assert kept["settings"] == {"model": "ensemble", "measurement_s": 10.0}
    assert kept["machine"]["cpu"]
    assert kept["machine"]["cores"] >= 1
    assert {"tritonserver", "tritonclient", "python"} <= set(kept["versions"])


@pytest.mark.parametrize("count", [1, 3])
def test_picture(report: Report, tmp_path: Path, count: int) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "perf.png"
    draw(replace(report, levels=LEVELS[:count]), path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_prompts_are_the_ensemble_s() -> None:
    rows = read_prompts(PROMPTS)
    assert len({row["text_input"][0] for row in rows}) > 8
    for row in rows:
        assert set(row) <= set(ENSEMBLE_MODEL.input_names())
        assert row["stream"] == row["return_num_output_tokens"] == [True]


def test_exact_length() -> None:
    row = read_prompts(PROMPTS, max_tokens=7)[0]
    assert row["max_tokens"] == row["min_tokens"] == [7]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "no input data"),
        ("[]", "no input data"),
        ('{"data": []}', "no rows"),
        ('{"data": [{"text_input": ["a"], "max_token": [3]}]}', "row 1: .* no input max_token"),
        ('{"data": [{"max_tokens": [3]}]}', "row 1: no text_input"),
    ],
)
def test_prompts_that_are_none(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(content)
    with pytest.raises(LoadError, match=message):
        read_prompts(path)
    with pytest.raises(LoadError, match="No such file"):
        read_prompts(tmp_path / "nowhere.json")


@pytest.fixture
def perf_analyzer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in that keeps its arguments and writes the first of `exports/`, each once."""
    program = tmp_path / "perf_analyzer"
    program.write_text(
        f"#!{sys.executable}\n"
        "import pathlib, sys\n"
        f"here = pathlib.Path({str(tmp_path)!r})\n"
        "(here / 'arguments').write_text('\\n'.join(sys.argv[1:]))\n"
        "exports = sorted((here / 'exports').iterdir())\n"
        "if not exports:\n"
        "    sys.exit('Failed to obtain stable measurement.')\n"
        "target = sys.argv[sys.argv.index('--profile-export-file') + 1]\n"
        "exports[0].rename(target)\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "exports").mkdir()
    monkeypatch.setattr("clients.perf.load.locate", lambda: program)
    return program


def a_load(**changes: Any) -> Load:
    rows = read_prompts(PROMPTS)
    settings = {"measurement_s": 6.0, "request_count": None, **changes}
    return Load(url="here:1", model="ensemble", prompts=rows, **settings)


def test_runs_perf_analyzer(perf_analyzer: Path) -> None:
    (perf_analyzer.parent / "exports" / "1").write_text(RECORDED.read_text())
    assert a_load().run(concurrency=2).requests == 6
    arguments = " ".join((perf_analyzer.parent / "arguments").read_text().split("\n"))
    assert "-m ensemble -u here:1 -i grpc --streaming --async" in arguments
    assert "--concurrency-range 2 " in arguments
    assert "--measurement-interval 2000 " in arguments


def test_runs_by_count(perf_analyzer: Path) -> None:
    (perf_analyzer.parent / "exports" / "1").write_text(RECORDED.read_text())
    a_load(request_count=4).run(concurrency=16)
    assert "--request-count\n16" in (perf_analyzer.parent / "arguments").read_text()


def test_unreadable_export_is_measured_again(perf_analyzer: Path) -> None:
    (perf_analyzer.parent / "exports" / "1").write_text("")
    (perf_analyzer.parent / "exports" / "2").write_text(RECORDED.read_text())
    assert a_load().run(concurrency=2).requests == 6


def test_too_little_time(perf_analyzer: Path) -> None:
    with pytest.raises(LoadError, match=r"at concurrency 2: .* raise --measurement-s"):
        a_load().run(concurrency=2)


def test_command(perf_analyzer, triton, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(command, "_check_server", lambda load, wait_s: "2.51.0")
    for name in "12":
        (perf_analyzer.parent / "exports" / name).write_text(RECORDED.read_text())
    reports = tmp_path / "reports"
    arguments = ["--concurrency", "2,2,2", "--reports", str(reports)]
    assert command.main(arguments) == 1
    out, err = capsys.readouterr()
    assert out.count("tokens/s") == 2
    assert err.startswith("error: at concurrency 2: ")
    assert {path.name for path in reports.iterdir()} >= {"perf.json", "perf.md"}
    assert len(json.loads((reports / "perf.json").read_text())["levels"]) == 2


def test_command_without_a_server(tmp_path: Path, capsys) -> None:
    assert command.main(["--url", "127.0.0.1:1", "--reports", str(tmp_path / "reports")]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: no answer from 127.0.0.1:1")
    assert err.count("\n") == 1
    assert not (tmp_path / "reports").exists()


@pytest.mark.parametrize("levels", ["", "0", "1,x", "-1"])
def test_command_refuses_levels(levels: str) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(["--concurrency", levels])
    assert caught.value.code == 2
