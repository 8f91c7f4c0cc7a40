"""``make bench-cuda``: tokens per second on an NVIDIA GPU, against what its memory allows.

Decoding reads every weight once a step, whatever the batch, and the keys and values of every
sequence in it. The least time of a step is these bytes over the bandwidth of the device's memory,
which is measured first, as the rate of a copy within it:

    step >= (weight bytes + batch * context * bytes of a token's keys and values) / bandwidth

Each batch decodes greedily after prompts of ``--context`` tokens, in process; a step's time is the
median. A checkpoint of Qwen2.5-0.5B's shape with random weights stands for a real one, unless
``--checkpoint`` names one. Writes ``reports/cuda.json``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from benchmarks.bench_checkpoint import make_checkpoint
from build.engine_folder import build_engine
from contract.errors import EngineError
from python_backend.engine.cuda_device import CudaDevice, CudaLayout, Device
from python_backend.engine.engine_config import GRAPH_FILE, PRECISIONS, EngineConfig
from python_backend.engine.onnx_engine import OnnxEngine
from python_backend.engine.sequence import SamplingParams, Sequence

BATCHES = (1, 2, 4, 8, 16, 32, 64)
_COPIED_BYTES = 1 << 30
_COPIES = 20
_PREFILL_TOKENS = 8192


@dataclass(frozen=True)
class Traffic:
    """What decoding reads from the device's memory.

    Attributes:
        weight_bytes: In a step, whatever the batch.
        kv_bytes_per_token: For each token that a sequence has.
    """

    weight_bytes: int
    kv_bytes_per_token: int

    @classmethod
    def of(cls, graph: onnx.GraphProto, layout: CudaLayout) -> Traffic:
        """That of a graph for CUDA.

        A table that rows are only looked up in counts for nothing: the embedding, where it isn't
        the output projection as well, and the rotary embedding's.
        """
        looked_up = {"Gather": {0}, "PagedAttention": {8, 9}}
        read = {
            name
            for node in graph.node
            for place, name in enumerate(node.input)
            if place not in looked_up.get(node.op_type, set())
        }
        lengths = {
            tensor.name: int(entry.value)
            for tensor in graph.initializer
            for entry in tensor.external_data
            if entry.key == "length"
        }
        return cls(
            weight_bytes=sum(length for name, length in lengths.items() if name in read),
            kv_bytes_per_token=layout.block_bytes // layout.block_tokens,
        )

    def step_bytes(self, batch: int, context: float) -> float:
        """Bytes of a step for sequences of so many tokens each."""
        return self.weight_bytes + batch * context * self.kv_bytes_per_token

    def bound_tokens_per_s(self, batch: int, context: float, bytes_per_s: float) -> float:
        """Most tokens per second, of all sequences together."""
        return batch * bytes_per_s / self.step_bytes(batch, context)


@dataclass(frozen=True)
class Result:
    """One batch of one precision.

    Attributes:
        precision: Of the weights.
        batch: Sequences that decode together.
        step_ms: Median time of a step.
        tokens_per_s: Of all sequences.
        bound_tokens_per_s: What the memory's bandwidth allows.
    """

    precision: str
    batch: int
    step_ms: float
    tokens_per_s: float
    bound_tokens_per_s: float


def measure_bandwidth(device: Device, size_bytes: int = _COPIED_BYTES) -> float:
    """Bytes per second that the device's memory reads and writes in a copy, the best of several."""
    elements = size_bytes // 2
    shape = [elements]
    tensors = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT16, shape) for name in ("from", "to")
    ]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["from"], ["to"])], "copy", tensors[:1], tensors[1:]
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "copy.onnx"
        onnx.save(model, path)
        session = device.load(path)
    binding = session.io_binding()
    binding.bind_ortvalue_input("from", device.allocate((elements,), np.float16))
    binding.bind_ortvalue_output("to", device.allocate((elements,), np.float16))
    best_s = float("inf")
    for _ in range(_COPIES):
        start = time.perf_counter()
        session.run_with_iobinding(binding)
        best_s = min(best_s, time.perf_counter() - start)
    return 2 * size_bytes / best_s


def measure_step(
    engine: OnnxEngine, batch: int, context: int, steps: int, rng: np.random.Generator
) -> float:
    """Seconds of a decoding step, the median; every step yields a token of every sequence."""
    params = SamplingParams(max_tokens=engine.config.context_length - context)
    vocabulary = engine.config.vocab_size
    sequences = [
        Sequence(rng.integers(0, vocabulary, context, dtype=np.int32), params) for _ in range(batch)
    ]
    for sequence in sequences:
        engine.check(sequence.prompt, params)
        engine.add(sequence)
    while not all(sequence.output for sequence in sequences):
        engine.step()
    durations_s = []
    for _ in range(steps):
        start = time.perf_counter()
        advanced = engine.step()
        durations_s.append(time.perf_counter() - start)
        if len(advanced) != batch:
            raise RuntimeError(f"a step gave {len(advanced)} tokens to {batch} sequences")
    for sequence in sequences:
        engine.cancel(sequence)
    return statistics.median(durations_s)


def main() -> int:
    """Measure, print a table and write ``reports/cuda.json``; 1 where there is no GPU."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cuda", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(".cache/benchmarks"))
    parser.add_argument("--checkpoint", type=Path, help="in place of random weights")
    parser.add_argument("--context", type=int, default=512, help="tokens of a prompt")
    parser.add_argument("--steps", type=int, default=128, help="measured steps of each batch")
    parser.add_argument("--device-id", type=int, default=0)
    arguments = parser.parse_args()
    try:
        device = CudaDevice(arguments.device_id)
    except EngineError as error:
        print(f"nothing was measured: {error}", file=sys.stderr)
        return 1
    bandwidth = measure_bandwidth(device)
    checkpoint = arguments.checkpoint or make_checkpoint(arguments.folder / "qwen2.5-0.5b")
    rng = np.random.default_rng(1)
    results = []
    for precision in PRECISIONS["cuda"]:
        folder = arguments.folder / f"cuda-{precision}" / "1"
        build_engine(checkpoint, folder, precision, execution_provider="cuda")
        results += _measure(folder, device, arguments.context, arguments.steps, bandwidth, rng)
    report = {
        "gpu": _gpu_name(arguments.device_id),
        "onnxruntime": ort.__version__,
        "checkpoint": checkpoint.name,
        "context": arguments.context,
        "bytes_per_s": bandwidth,
        "results": [asdict(each) for each in results],
    }
    Path("reports").mkdir(exist_ok=True)
    Path("reports/cuda.json").write_text(json.dumps(report, indent=2) + "\n")
    print(f"{report['gpu']}: {bandwidth / 1e9:,.0f} GB/s\n\n{table(results)}")
    return 0


def _measure(
    folder: Path,
    device: Device,
    context: int,
    steps: int,
    bytes_per_s: float,
    rng: np.random.Generator,
) -> list[Result]:
    """All batches of one engine."""
    model = onnx.load(folder / GRAPH_FILE, load_external_data=False)
    engine = _load(folder, device, context + steps)
    assert isinstance(engine.layout, CudaLayout)
    traffic = Traffic.of(model.graph, engine.layout)
    results = []
    for batch in BATCHES:
        step_s = measure_step(engine, batch, context, steps, rng)
        mean_context = context + steps / 2
        results.append(
            Result(
                precision=engine.config.precision,
                batch=batch,
                step_ms=round(1000 * step_s, 3),
                tokens_per_s=round(batch / step_s, 1),
                bound_tokens_per_s=round(
                    traffic.bound_tokens_per_s(batch, mean_context, bytes_per_s), 1
                ),
            )
        )
        print(table(results[-1:]).splitlines()[-1], file=sys.stderr)
    return results


def _load(folder: Path, device: Device, tokens: int) -> OnnxEngine:
    """An engine with room for the largest batch, whose sequences have so many tokens and those
    that the first ones get while the last ones' prompts are computed.
    """
    prefill_steps = -(-max(BATCHES) * tokens // _PREFILL_TOKENS) + 1
    layout = CudaLayout.of(EngineConfig.load(folder))
    blocks = max(BATCHES) * -(-(tokens + prefill_steps) // layout.block_tokens)
    return OnnxEngine(
        folder,
        max_sequences=max(BATCHES),
        max_num_tokens=_PREFILL_TOKENS,
        kv_cache_bytes=blocks * layout.block_bytes,
        device=device,
    )


def table(results: list[Result]) -> str:
    """Results as a table in Markdown."""
    lines = ["| weights | batch | step, ms | tokens/s | bound | share |", "|---|" + "---:|" * 5]
    for each in results:
        share = each.tokens_per_s / each.bound_tokens_per_s
        lines.append(
            f"| {each.precision} | {each.batch} | {each.step_ms:.2f} | {each.tokens_per_s:,.0f} | "
            f"{each.bound_tokens_per_s:,.0f} | {share:.0%} |"
        )
    return "\n".join(lines)


def _gpu_name(index: int) -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return f"CUDA device {index}"
    command: list[Any] = [program, f"--id={index}", "--query-gpu=name", "--format=csv,noheader"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return shown.stdout.strip() or f"CUDA device {index}"


if __name__ == "__main__":
    sys.exit(main())
