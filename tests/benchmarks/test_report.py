"""What a comparison leaves behind."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timezone

import pytest

from benchmarks.hardware import Hardware
from benchmarks.peers.peers_picture import draw
from benchmarks.peers.peers_quality import Quality
from benchmarks.peers.peers_report import KV_BYTES_SETTING, Report, SystemReport
from benchmarks.peers.quality_picture import draw_quality
from benchmarks.peers.systems import BY_NAME
from build.quality.closeness import Closeness

HARDWARE = Hardware(2, 50e9, 1e12, 2e11)


@pytest.fixture
def report() -> Report:
    def system(name: str, **settings: object) -> SystemReport:
        ready = {"versions": {name: "1.0"}, "settings": settings, "load_s": 1.0}
        return SystemReport.of(BY_NAME[name], ready)

    return Report.of(
        datetime(2026, 11, 20, tzinfo=timezone.utc),
        hardware=HARDWARE,
        seed=1,
        systems={
            "trireme-int8": system("trireme-int8", **{KV_BYTES_SETTING: 24576}),
            "trireme-int8-server": system("trireme-int8-server"),
            "openvino-int8": system("openvino-int8"),
        },
        seconds={
            "few": {
                "trireme-int8": [1.0, 1.0],
                "trireme-int8-server": [1.25, 1.25],
                "openvino-int8": [2.0, 2.0],
            },
            "first token": {
                "trireme-int8": [0.4, 0.4],
                "trireme-int8-server": [0.5, 0.5],
                "openvino-int8": [0.6, 0.6],
            },
        },
        failures={"vllm-bf16": "vllm-bf16 ended (log):\nlast words"},
    )


def test_the_table_has_figures_ratios_bounds_and_the_server(report: Report) -> None:
    text = report.to_markdown()
    assert "| system | few, tok/s | first token, s |" in text
    assert "| Trireme int8 | 512 (±0%) | 0.400 (±0%) |" in text
    assert "| Trireme int8 | comparable peers | 2.00 × OpenVINO GenAI int8 | 1.50 ×" in text
    assert "| Trireme int8, whole server | 80% | 80% |" in text
    assert "left out: vllm-bf16: vllm-bf16 ended (log):\n" in text
    share = report.bound_share(report.workloads[0], "trireme-int8")
    assert share is not None
    assert f"| Trireme int8 | hardware's bound | {share:.0%} |" in text


def test_the_report_keeps_every_round(report: Report) -> None:
    content = json.loads(report.to_json())
    assert content["seconds"]["few"]["openvino-int8"] == [2.0, 2.0]
    assert content["figures"]["few"]["trireme-int8"]["to_rivals"] == {
        "value": 2.0,
        "best": "openvino-int8",
    }
    assert content["figures"]["first token"]["trireme-int8"]["unit"] == "s"
    assert content["machine"]["cores"] >= 1
    assert content["server_share"]["trireme-int8-server"]["few"] == 0.8


def test_peers_have_no_bound(report: Report) -> None:
    assert report.bound_share(report.workloads[0], "openvino-int8") is None


def test_a_picture_is_drawn(report: Report, tmp_path) -> None:
    draw(report, tmp_path / "peers.png")
    assert (tmp_path / "peers.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def talked(report: Report) -> Report:
    def quality(divergence: float) -> Quality:
        closeness = Closeness(7154, 40.0, 0.0024, 0.0008, divergence, 0.00005, 0.956)
        return Quality(144_800_000, closeness)

    seconds = {"trireme-int8": [20.0], "openvino-int8": [40.0]}
    return replace(
        report,
        systems={name: report.systems[name] for name in seconds},
        seconds={"32 talks": seconds, "one talk": {name: [2.0] for name in seconds}},
        quality={"trireme-int8": quality(0.004), "openvino-int8": quality(0.002)},
        failures={},
    )


def test_quality_stands_beside_speed_and_says_what_is_claimed(
    report: Report, talked: Report, tmp_path
) -> None:
    whole = report.extended(talked)
    text = whole.to_markdown()
    assert (
        "| Trireme int8 | 144.8 | +0.24% ± 0.08% | 0.00400 ± 0.00005 | 95.6% | 64 | 205 |" in text
    )
    ratios = "2.00 × OpenVINO GenAI int8 | 1.50 × OpenVINO GenAI int8 | 1.00 ×"
    assert f"| Trireme int8 | better peers (no claim) | {ratios}" in text
    assert "| Trireme int8 | peers no better | – | – | – | – |" in text
    assert whole.bound_share(whole.workloads[-1], "trireme-int8") is None
    path = tmp_path / "peers.json"
    path.write_text(whole.to_json(), encoding="utf-8")
    assert Report.load(path) == whole
    for each in (whole, replace(talked, seconds={})):  # one that only read
        assert "| Trireme int8 | 144.8 |" in each.to_markdown()
        draw_quality(each, tmp_path / "quality.png")
    assert (tmp_path / "quality.png").read_bytes().startswith(b"\x89PNG")


def test_a_report_is_read_as_it_was_written(report: Report, tmp_path) -> None:
    path = tmp_path / "peers.json"
    path.write_text(report.to_json(), encoding="utf-8")
    assert Report.load(path) == report
    path.write_text('{"machine": 3}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"peers\.json is not a report of a comparison"):
        Report.load(path)


def test_a_workload_of_fewer_systems_is_added(report: Report, tmp_path) -> None:
    seconds = {"trireme-int8": [10.0], "openvino-int8": [15.0]}
    systems = {name: report.systems[name] for name in seconds}
    more = replace(report, systems=systems, seconds={"long": seconds}, failures={})
    whole = report.extended(more)
    assert [workload.name for workload in whole.workloads] == ["few", "long", "first token"]
    text = whole.to_markdown()
    assert "| Trireme int8 | 512 (±0%) | 77 (±0%) | 0.400 (±0%) |" in text
    assert "| Trireme int8, whole server | 410 (±0%) | – | 0.500 (±0%) |" in text
    assert "| Trireme int8, whole server | 80% | – | 80% |" in text
    assert "rounds: 1, 2" in text
    assert json.loads(whole.to_json())["failures"] == report.failures
    draw(whole, tmp_path / "peers.png")
