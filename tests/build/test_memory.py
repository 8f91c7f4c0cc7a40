"""A whole build, gate and all, within twice the checkpoint beside what any build takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import pytest
from safetensors.numpy import load_file, save_file

from tests.build.builds import make_model

ROOT = Path(__file__).parents[2]
SIZES: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 5,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
}


_BUILD = """
import sys
from build.__main__ import main

folder, precision, bounds, *checkpoints = sys.argv[1:]
for checkpoint in checkpoints:
    code = main(["--checkpoint", checkpoint, "--precision", precision, "--set",
                 f"quality.bounds={bounds}", "--set", f"quality.suite={folder}/suite.jsonl",
                 "--store", f"{folder}/artifacts", "--key", f"{folder}/key.pem",
                 "--cache", f"{folder}/cache"])
    if code:
        sys.exit(code)
    status = open("/proc/self/status").read()
    print("peak", int(status.partition("VmHWM:")[2].split()[0]) * 1024)
"""


def peaks_bytes(folder: Path, precision: str, *checkpoints: Path) -> list[int]:
    """Most that a process had resident after each of some builds, by the operating system's count.

    One process for all, so that the later ones are measured beside what any build takes. Not by
    ``ru_maxrss``: a child begins with that of the process it was forked from.
    """
    bounds = json.dumps({"max_perplexity_increase": 9, "min_agreement": 0})
    (folder / "suite.jsonl").write_text('{"question": "Why?", "answer": "Because."}\n')
    done = subprocess.run(
        [sys.executable, "-c", _BUILD, folder, precision, bounds, *checkpoints],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [int(line[5:]) for line in done.stdout.splitlines() if line.startswith("peak ")]


def half(folder: Path) -> None:
    """Store a checkpoint in 16 bits."""
    path = folder / "model.safetensors"
    tensors = {name: each.astype(ml_dtypes.bfloat16) for name, each in load_file(path).items()}
    save_file(tensors, path)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_model(tmp_path_factory.mktemp("large") / "model", **SIZES)
    half(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "int8", "int8_block", "int4"])
def test_a_build_takes_less_than_twice_its_checkpoint(tmp_path, large, precision):
    small = make_model(tmp_path / "small", max_position_embeddings=256)
    before, after = peaks_bytes(tmp_path, precision, small, large)
    size = (large / "model.safetensors").stat().st_size
    # The reference in float32 alone is twice the checkpoint. What comes on top does not grow with
    # it: activations of 512 tokens, wider than the small model's, and blocks of 16 MB to round.
    assert after - before < 2 * size + 40e6
