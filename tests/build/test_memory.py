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


def peak_bytes(checkpoint: Path, folder: Path, precision: str) -> int:
    """Most that a build had resident, as the operating system counted it.

    Not by ``ru_maxrss``: a child begins with that of the process it was forked from.
    """
    bounds = json.dumps({"max_perplexity_increase": 9, "min_agreement": 0})
    program = (
        "import sys\n"
        "from build.__main__ import main\n"
        f"code = main(['--checkpoint', {str(checkpoint)!r}, '--precision', {precision!r},"
        f" '--set', 'quality.bounds={bounds}', '--set', 'quality.suite={folder}/suite.jsonl',"
        f" '--store', '{folder}/artifacts', '--key', '{folder}/key.pem',"
        f" '--cache', '{folder}/cache'])\n"
        "status = open('/proc/self/status').read()\n"
        "print(int(status.partition('VmHWM:')[2].split()[0]) * 1024)\n"
        "sys.exit(code)\n"
    )
    folder.mkdir()
    (folder / "suite.jsonl").write_text('{"question": "Why?", "answer": "Because."}\n')
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return int(done.stdout.split()[-1])


def half(folder: Path) -> None:
    """Store a checkpoint in 16 bits."""
    path = folder / "model.safetensors"
    tensors = {name: each.astype(ml_dtypes.bfloat16) for name, each in load_file(path).items()}
    save_file(tensors, path)


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_a_build_takes_less_than_twice_its_checkpoint(tmp_path, precision):
    large = make_model(tmp_path / "large", **SIZES)
    half(large)
    small = make_model(tmp_path / "small", max_position_embeddings=256)
    grown = peak_bytes(large, tmp_path / "a", precision) - peak_bytes(
        small, tmp_path / "b", precision
    )
    size = (large / "model.safetensors").stat().st_size
    # The reference in float32 alone is twice the checkpoint. What comes on top does not grow with
    # it: activations of 512 tokens, wider than the small model's, and blocks of 16 MB to round.
    assert grown < 2 * size + 40e6
