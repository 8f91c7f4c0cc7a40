"""What a workload must take at least."""

from __future__ import annotations

import pytest

from benchmarks.bench_checkpoint import CONFIG
from benchmarks.hardware import Decoder, Hardware, bound_s, measure_hardware, steps
from benchmarks.workloads import WORKLOADS, Workload

DECODER = Decoder(layer_weights=1000, head_weights=100, kv_values=10, attention_operations=4)


def test_the_shape_of_the_checkpoint() -> None:
    decoder = Decoder.of(CONFIG)
    assert decoder.layer_weights == 24 * (896 * 896 * 2 + 896 * 128 * 2 + 3 * 896 * 4864)
    assert decoder.head_weights == 151_936 * 896
    assert decoder.kv_values == 24 * 2 * 2 * 64
    assert decoder.attention_operations == 24 * 4 * 14 * 64


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_steps_compute_every_token_once(workload: Workload) -> None:
    found = steps(workload)
    prompts = workload.shared + workload.own * workload.concurrent
    decoded = (workload.output - 1) * workload.concurrent
    assert sum(step.tokens for step in found) == prompts + decoded
    assert sum(step.logits for step in found) == workload.output_tokens
    length = workload.shared + workload.own
    assert found[-1].pairs == workload.concurrent * (length + workload.output - 1) or (
        workload.is_latency and found[-1].pairs == length * (length + 1) // 2
    )


def test_attention_of_a_prompt_goes_to_what_came_before() -> None:
    (prefill,) = steps(Workload("small", shared=2, own=3, output=1, concurrent=2))
    # The shared tokens: 1 + 2. Then twice 3, 4 and 5.
    assert prefill.pairs == 3 + 2 * 12


def test_one_stream_is_bound_by_memory() -> None:
    slow_memory = Hardware(2, 1000.0, 1e12, 1e12)
    workload = Workload("one", shared=0, own=1, output=2, concurrent=1)
    # Two steps read 1,100 weights each; the second also reads the first token's keys and values.
    seconds = bound_s(workload, DECODER, slow_memory, weight_bytes=1.0, kv_value_bytes=2.0)
    assert seconds == pytest.approx((1100 + 1100 + 1 * 10 * 2) / 1000)


def test_a_prompt_is_bound_by_products_and_attention() -> None:
    slow_products = Hardware(2, 1e12, 1000.0, 100.0)
    workload = Workload("prompt", shared=0, own=10, output=1, concurrent=1)
    seconds = bound_s(workload, DECODER, slow_products, weight_bytes=1.0, kv_value_bytes=1.0)
    products = 2 * (10 * 1000 + 100)
    assert seconds == pytest.approx(products / 1000 + 55 * 4 / 100)


def test_without_vnni_products_are_bound_by_fp32() -> None:
    workload = Workload("prompt", shared=0, own=10, output=1, concurrent=1)
    with_fp32 = bound_s(workload, DECODER, Hardware(2, 1e12, 0.0, 100.0), 1.0, 1.0)
    assert with_fp32 == pytest.approx((2 * (10 * 1000 + 100) + 55 * 4) / 100)


def test_the_better_of_two_measurements_counts() -> None:
    assert Hardware(2, 1.0, 5.0, 3.0).best(Hardware(2, 2.0, 4.0, 3.0)) == Hardware(2, 2.0, 5.0, 3.0)


@pytest.mark.slow
def test_the_rates_are_measured() -> None:
    hardware = measure_hardware()
    assert hardware.cores >= 1
    # No machine that runs this is slower: 100 MB/s, 0.1 GFLOP/s.
    assert hardware.read_bytes_per_s > 1e8
    assert hardware.fp32_operations_per_s > 1e8
    assert hardware.int8_operations_per_s == 0 or hardware.int8_operations_per_s > 1e8
