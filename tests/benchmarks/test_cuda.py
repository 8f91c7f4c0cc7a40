"""What can be known of the benchmark for GPUs without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from benchmarks import cuda
from benchmarks.cuda import Result, Traffic, measure_bandwidth, measure_step, table
from build.engine_folder import build_engine
from python_backend.engine.cuda_device import CudaLayout
from python_backend.engine.engine_config import GRAPH_FILE, EngineConfig, Precision
from python_backend.engine.onnx_engine import OnnxEngine
from tests.build.checkpoints import make_checkpoint
from tests.build.reference_device import ReferenceDevice

# The tiny checkpoint's: two layers of width 64 with 4 and 2 heads of 16, an MLP of 96, 101 tokens.
PRODUCTS = 2 * (64 * (64 + 2 * 32) + 64 * 64 + 3 * 64 * 96)
NORMS = 5 * 64
TABLE = 101 * 64


def build(folder: Path, precision: Precision, kind: str = "llama") -> Path:
    checkpoint = make_checkpoint(folder / "checkpoint", kind)
    build_engine(checkpoint, folder / "1", precision, execution_provider="cuda")
    return folder / "1"


@pytest.mark.parametrize("kind", ["llama", "llama-untied"])
def test_a_step_reads_every_weight_but_tables(tmp_path: Path, kind: str) -> None:
    folder = build(tmp_path, "fp16", kind)
    graph = onnx.load(folder / GRAPH_FILE, load_external_data=False).graph
    traffic = Traffic.of(graph, CudaLayout.of(EngineConfig.load(folder)))
    assert traffic.weight_bytes == 2 * (PRODUCTS + NORMS + TABLE)
    assert traffic.kv_bytes_per_token == 2 * 2 * 2 * 16 * 2


def test_a_step_reads_four_bits_and_their_scales(tmp_path: Path) -> None:
    folder = build(tmp_path, "int4")
    graph = onnx.load(folder / GRAPH_FILE, load_external_data=False).graph
    traffic = Traffic.of(graph, CudaLayout.of(EngineConfig.load(folder)))
    # For 32 weights, which the widths are multiples of: 16 bytes, a scale of 2, half a zero point,
    # which rows of an odd number of blocks (the MLP's last product has 3) round up.
    blocks = (PRODUCTS + TABLE) // 32
    odd_rows = 2 * 64
    assert traffic.weight_bytes == 2 * NORMS + blocks * 18 + blocks // 2 + odd_rows // 2


def test_the_bound_is_bytes_over_bandwidth() -> None:
    traffic = Traffic(weight_bytes=1000, kv_bytes_per_token=10)
    assert traffic.step_bytes(4, 25) == 2000
    assert traffic.bound_tokens_per_s(4, 25, bytes_per_s=1e6) == 2000
    assert traffic.bound_tokens_per_s(1, 0, bytes_per_s=1e6) == 1000


def test_every_step_yields_a_token_of_every_sequence(tmp_path: Path) -> None:
    engine = OnnxEngine(build(tmp_path, "fp16"), kv_cache_bytes=1 << 20, device=ReferenceDevice())
    assert measure_step(engine, 3, 20, 4, np.random.default_rng(0)) > 0
    assert not engine.has_work
    assert engine.scheduler.pool.num_used == 0


def test_a_run_has_room_for_its_largest_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "BATCHES", (1, 3))
    folder = build(tmp_path, "int4")
    results = cuda._measure(folder, ReferenceDevice(), 30, 3, 1e9, np.random.default_rng(0))
    assert [(each.precision, each.batch) for each in results] == [("int4", 1), ("int4", 3)]


class _HostDevice(ReferenceDevice):
    """ONNX Runtime's own sessions, on the CPU."""

    def load(self, path: Path) -> Any:
        return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def test_bandwidth_is_of_a_copy() -> None:
    assert 1e6 < measure_bandwidth(_HostDevice(), size_bytes=1 << 20) < 1e13


def test_the_table_shows_the_share_of_the_bound() -> None:
    shown = table([Result("fp16", 8, 1.5, 5333.3, 10_000.0)])
    assert shown.splitlines()[-1] == "| fp16 | 8 | 1.50 | 5,333 | 10,000 | 53% |"


def test_without_a_gpu_nothing_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr("sys.argv", ["cuda", "--folder", str(tmp_path)])
    assert cuda.main() == 1
    assert "nothing was measured: CUDA is asked for, but onnxruntime" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
