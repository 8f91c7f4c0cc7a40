"""``PYTHON ops/install_torch.py``: install torch in that Python's environment, by its lock.

The torch of the package index for Linux can't be imported without gigabytes of CUDA's libraries,
even where there is no GPU; PyTorch's own wheel for CPUs needs none, but the package index doesn't
have it. Where pip finds that one it is taken, and else the other with its libraries. Standard
library only: it runs in an environment where nothing is yet.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements"

PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
BY_LOCK = ("--no-input", "--no-deps", "--require-hashes", "--only-binary", ":all:")


def main() -> int:
    """Install it; pip's exit code."""
    install = [*PIP, *BY_LOCK, "--requirement"]
    alone = subprocess.run([*install, str(REQUIREMENTS / "torch-cpu.txt")], capture_output=True)
    if alone.returncode == 0:
        return 0
    print("Installing torch with CUDA's libraries (a download of gigabytes, once)", flush=True)
    return subprocess.call([*install, str(REQUIREMENTS / "torch.txt")])


if __name__ == "__main__":
    sys.exit(main())
