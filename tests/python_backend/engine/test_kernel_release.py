"""The libraries in this checkout are, to the byte, what their sources make."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PYTHON = ROOT / ".venv-kernels" / "bin" / "python"


@pytest.mark.kernels
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not PYTHON.is_file(), reason="needs `make .venv-kernels/.installed`")
def test_building_them_again_yields_the_same_bytes() -> None:
    command = [sys.executable, "-m", "python_backend.engine.kernels.kernel_release"]
    command += [str(PYTHON), "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
