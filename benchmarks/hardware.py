"""What the machine can do at best, measured, and how long a workload must take on it at least.

``python -m benchmarks.hardware`` prints both. The rates come from ``hardware.c``, compiled here
with the machine's C compiler: bytes read from memory by all cores, int8 products (VNNI) and fp32
multiply-adds.

The bound of a workload is the sum over the steps that it can't do without. A step reads every
weight once, and the keys and values of every sequence in it once; it computes two operations for
each weight and token, in int8 whatever the weights' precision, and attention in fp32. What of the
two takes longer bounds the step:

    step = max((weight bytes + KV bytes) / bandwidth, products / int8 rate + attention / fp32 rate)

Prompts are computed in steps of ``PREFILL_TOKENS`` tokens, a shared beginning once, the output head
for the last token of each prompt only; then there is a step for each further token of the output.
"""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

import numpy as np

from benchmarks.bench_checkpoint import CONFIG
from benchmarks.workloads import WORKLOADS, Workload
from python_backend.engine.processor import available_cores

PREFILL_TOKENS = 512
"""Prompt tokens of a step, as in every engine that bounds the gap between two tokens."""

WEIGHT_BYTES = {"int4": 0.5, "int8": 1.0, "bf16": 2.0}
"""Bytes of a weight, without scales: they differ between formats."""

_SOURCE = Path(__file__).with_suffix(".c")
_READ_BYTES = 256 << 20  # of each thread; larger than any share of a last-level cache
_LINE_BYTES = 64


@dataclass(frozen=True)
class Hardware:
    """Rates of all cores together.

    Attributes:
        cores: How many took part.
        read_bytes_per_s: Sequential reads from memory.
        int8_operations_per_s: Multiplications and additions of bytes; 0 without VNNI.
        fp32_operations_per_s: Multiplications and additions of fp32.
    """

    cores: int
    read_bytes_per_s: float
    int8_operations_per_s: float
    fp32_operations_per_s: float

    def best(self, other: Hardware) -> Hardware:
        """The better of each of two measurements: what disturbs one only slows it down."""
        return Hardware(*map(max, astuple(self), astuple(other)))


@dataclass(frozen=True)
class Decoder:
    """What of a model's shape decides how long a step takes.

    Attributes:
        layer_weights: Weights of all layers' matrix products.
        head_weights: Weights of the output head.
        kv_values: Keys and values of one token, all layers.
        attention_operations: Operations for one token and one token before it, all layers.
    """

    layer_weights: int
    head_weights: int
    kv_values: int
    attention_operations: int

    @classmethod
    def of(cls, config: dict[str, int]) -> Decoder:
        """Read a checkpoint's ``config.json`` (Llama's or Qwen2's layout)."""
        hidden, inner = config["hidden_size"], config["intermediate_size"]
        layers, heads = config["num_hidden_layers"], config["num_attention_heads"]
        key_width = config["num_key_value_heads"] * hidden // heads
        return cls(
            layer_weights=layers * hidden * (2 * hidden + 2 * key_width + 3 * inner),
            head_weights=config["vocab_size"] * hidden,
            kv_values=layers * 2 * key_width,
            attention_operations=layers * 4 * hidden,
        )


@dataclass(frozen=True)
class Step:
    """One pass through the model.

    Attributes:
        tokens: Computed in it.
        logits: Tokens of these whose logits are needed.
        kv_tokens: Tokens whose keys and values are read, of all sequences.
        pairs: Pairs of a computed token and a token that it attends to.
    """

    tokens: int
    logits: int
    kv_tokens: int
    pairs: int


def steps(workload: Workload) -> list[Step]:
    """The steps that a workload takes at least."""
    found = []
    prompts = [(0, workload.shared)] if workload.shared else []
    prompts += [(workload.shared, workload.own)] * workload.concurrent
    tokens = sum(count for _, count in prompts)
    pairs = sum(count * before + count * (count + 1) // 2 for before, count in prompts)
    for start in range(0, tokens, PREFILL_TOKENS):
        end = min(start + PREFILL_TOKENS, tokens)

        def share(total: int, start: int = start, end: int = end) -> int:
            return total * end // tokens - total * start // tokens

        found.append(
            Step(
                tokens=end - start,
                logits=share(workload.concurrent),
                kv_tokens=0,  # just written, and counted with the attention
                pairs=share(pairs),
            )
        )
    length = workload.shared + workload.own
    for position in range(1, workload.output):
        # Keys and values that sequences share are in memory once, and so need to be read once.
        before = workload.shared + workload.concurrent * (workload.own + position - 1)
        found.append(
            Step(
                tokens=workload.concurrent,
                logits=workload.concurrent,
                kv_tokens=before,
                pairs=workload.concurrent * (length + position),
            )
        )
    return found


def bound_s(
    workload: Workload,
    decoder: Decoder,
    hardware: Hardware,
    weight_bytes: float,
    kv_value_bytes: float,
) -> float:
    """Seconds that a workload takes at least.

    Args:
        workload: What runs.
        decoder: The model.
        hardware: The machine.
        weight_bytes: Bytes of a weight.
        kv_value_bytes: Bytes of a key's or a value's component.
    """
    rate = hardware.int8_operations_per_s or hardware.fp32_operations_per_s
    total_s = 0.0
    for step in steps(workload):
        weights = decoder.layer_weights + (decoder.head_weights if step.logits else 0)
        read = weights * weight_bytes + step.kv_tokens * decoder.kv_values * kv_value_bytes
        products = 2 * (step.tokens * decoder.layer_weights + step.logits * decoder.head_weights)
        attention = step.pairs * decoder.attention_operations
        compute_s = products / rate + attention / hardware.fp32_operations_per_s
        total_s += max(read / hardware.read_bytes_per_s, compute_s)
    return total_s


def measure_hardware() -> Hardware:
    """Measure the three rates, each the best of several tries."""
    library = _compile()
    cores = available_cores()
    data = [np.ones(_READ_BYTES, dtype=np.uint8) for _ in range(cores)]
    sink = [ctypes.create_string_buffer(8) for _ in range(cores)]
    with ThreadPoolExecutor(cores) as threads:

        def rate(work: Callable[[int], int]) -> float:
            best = 0.0
            for _ in range(7):
                start = time.perf_counter()
                done = sum(threads.map(work, range(cores)))
                best = max(best, done / (time.perf_counter() - start))
            return best

        def read(core: int) -> int:
            library.read_lines(
                ctypes.c_void_p(data[core].ctypes.data),
                ctypes.c_int64(_READ_BYTES // _LINE_BYTES),
            )
            return _READ_BYTES

        return Hardware(
            cores=cores,
            read_bytes_per_s=rate(read),
            int8_operations_per_s=rate(
                lambda core: library.int8_operations(ctypes.c_int64(3_000_000), sink[core])
            ),
            fp32_operations_per_s=rate(
                lambda core: library.fp32_operations(ctypes.c_int64(3_000_000), sink[core])
            ),
        )


def _compile() -> ctypes.CDLL:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise RuntimeError("there is no C compiler (cc or gcc) to measure the hardware with")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "hardware.so")
        flags = ("-std=gnu11", "-O3", "-march=native", "-shared", "-fPIC")
        subprocess.run([compiler, *flags, "-o", path, _SOURCE], check=True)
        library = ctypes.CDLL(str(path))
    for function in (library.read_lines, library.int8_operations, library.fp32_operations):
        function.restype = ctypes.c_int64
    return library


def main() -> None:
    """Print the rates, and what they bound with int8 and int4 weights."""
    hardware = measure_hardware()
    print(json.dumps(asdict(hardware), indent=2))
    decoder = Decoder.of(CONFIG)
    for workload in WORKLOADS:
        for precision in ("int4", "int8"):
            seconds = bound_s(workload, decoder, hardware, WEIGHT_BYTES[precision], 4)
            figure = (
                f"{1000 * seconds:,.1f} ms"
                if workload.is_latency
                else f"{workload.output_tokens / seconds:,.0f} tokens/s"
            )
            print(f"{workload.name:12} {precision}  {figure}")


if __name__ == "__main__":
    main()
