"""From seconds to figures."""

from __future__ import annotations

import pytest

from benchmarks.peers.peers_quality import Quality
from benchmarks.peers.peers_results import Ratio, figures, is_rival, server_share
from benchmarks.peers.systems import BY_NAME, SYSTEMS
from benchmarks.workloads import WORKLOADS
from build.quality.closeness import Closeness

BY_WORKLOAD = {workload.name: workload for workload in WORKLOADS}
FEW, FIRST_TOKEN = BY_WORKLOAD["few"], BY_WORKLOAD["first token"]


def test_a_throughput_is_the_median_of_the_rounds() -> None:
    figure = figures(FEW, {"trireme-int8": [2.0, 1.0, 4.0]})["trireme-int8"]
    assert (figure.value, figure.low, figure.high) == (256, 128, 512)
    assert figure.spread == 1.5
    assert figure.to_peers is None
    assert figure.to_rivals is None


def test_a_first_token_is_seconds() -> None:
    assert figures(FIRST_TOKEN, {"trireme-int8": [0.25]})["trireme-int8"].value == 0.25


@pytest.mark.parametrize("workload", [FEW, FIRST_TOKEN])
def test_each_round_is_compared_in_itself(workload) -> None:
    # The machine is half as fast in the second round; the ratios don't notice.
    seconds = {
        "trireme-int8": [1.0, 2.0, 1.0],
        "openvino-int8": [2.0, 4.0, 3.0],
        "vllm-bf16": [3.0, 3.9, 2.5],
        "llama-cpp-q4_0": [1.5, 3.0, 1.5],
    }
    figure = figures(workload, seconds)["trireme-int8"]
    assert figure.to_rivals is not None
    assert figure.to_peers is not None
    assert figure.to_rivals.value == 2.0  # of 2, 1.95 and 2.5
    assert figure.to_rivals.best == "vllm-bf16"
    assert figure.to_peers.value == 1.5
    assert figure.to_peers.best == "llama-cpp-q4_0"


def test_a_peer_is_compared_with_the_best_peer_which_may_be_itself() -> None:
    found = figures(FEW, {"openvino-int8": [1.0], "vllm-bf16": [2.0]})
    assert found["openvino-int8"].to_peers == Ratio(1.0, "openvino-int8")
    assert found["vllm-bf16"].to_peers == Ratio(0.5, "openvino-int8")


@pytest.mark.parametrize(
    ("system", "peer", "expected"),
    [
        ("trireme-int4", "llama-cpp-q4_0", True),
        ("trireme-int4", "openvino-int8", False),
        ("trireme-int8-server", "openvino-int8", True),
        ("trireme-int8", "vllm-bf16", True),
        ("trireme-int8", "openvino-int4", False),
    ],
)
def test_rivals_have_comparable_weights(system: str, peer: str, expected: bool) -> None:
    assert is_rival(BY_NAME[system], BY_NAME[peer]) is expected


def quality(divergence: float, error: float = 0.0001) -> Quality:
    closeness = Closeness(1000, 40.0, 0.01, 0.001, divergence, error, 0.95)
    return Quality(100_000_000, closeness)


def test_speed_is_held_against_what_is_no_better() -> None:
    found = {
        "trireme-int8": quality(0.004),
        "openvino-int8": quality(0.002),
        "llama-cpp-q8_0": quality(0.0039),  # no further off than chance may be
        "llama-cpp-q4_0": quality(0.2),
    }
    seconds = {
        "trireme-int8": [1.0],
        "trireme-int8-server": [1.0],
        "openvino-int8": [1.5],
        "llama-cpp-q8_0": [3.0],
        "llama-cpp-q4_0": [2.0],
    }
    for name in ("trireme-int8", "trireme-int8-server"):
        figure = figures(FEW, seconds, found)[name]
        assert figure.to_rivals == Ratio(2.0, "llama-cpp-q4_0")
        assert figure.to_better == Ratio(1.5, "openvino-int8")
    # Where it was not measured, it goes by the weights.
    del found["openvino-int8"]
    figure = figures(FEW, seconds, found)["trireme-int8"]
    assert figure.to_rivals == Ratio(1.5, "openvino-int8")
    assert figure.to_better is None


def test_every_engine_of_ours_has_rivals() -> None:
    peers = [system for system in SYSTEMS if system.kind == "peer"]
    for system in SYSTEMS:
        if system.kind != "peer":
            assert any(is_rival(system, peer) for peer in peers)


def test_a_server_is_a_share_of_its_engine() -> None:
    seconds = {
        "few": {"trireme-int8": [1.0, 1.0, 2.0], "trireme-int8-server": [2.0, 1.25, 2.5]},
        "many": {"trireme-int8": [1.0, 1.0, 1.0]},
    }
    assert server_share(seconds, "trireme-int8", "trireme-int8-server") == {"few": 0.8}
