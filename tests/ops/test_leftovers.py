"""What is ours and dead is taken away, and nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ops.leftovers import REGION_ARGUMENT, sweep

NAMESPACE = re.sub(r"\D", "", str(Path("/proc/self/ns/pid").readlink()))


def dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@contextmanager
def sleeper(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is to be seen by its command line."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", *arguments])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def region(shm: Path, namespace: str, pid: int) -> Path:
    path = shm / f"trireme_{namespace}_{pid}_5c1b"
    path.touch()
    return path


def test_regions_of_a_triton_that_is_gone_go(tmp_path: Path) -> None:
    gone = region(tmp_path, NAMESPACE, dead_pid())
    reused = region(tmp_path, NAMESPACE, os.getpid())  # another program has the number by now
    assert sweep(tmp_path) == sorted([gone.name, reused.name])
    assert not gone.exists()


def test_what_is_another_s_or_lives_stays(tmp_path: Path) -> None:
    others = tmp_path / "triton_python_backend_shm_region_5c1b"
    others.touch()
    elsewhere = region(tmp_path, "1", dead_pid())  # a container's, whose processes aren't seen
    program = f"exec {sys.executable} -c 'import time; time.sleep(600)' {REGION_ARGUMENT}"
    with subprocess.Popen(["sh", "-c", program]) as triton:
        living = region(tmp_path, NAMESPACE, triton.pid)
        while f"prefix-name=trireme_{NAMESPACE}_{triton.pid}_" not in command(triton.pid):
            time.sleep(0.01)
        assert sweep(tmp_path) == []
        triton.kill()
    assert others.exists()
    assert elsewhere.exists()
    assert living.exists()
    assert sweep(tmp_path) == [living.name]


def test_a_model_s_process_ends_whose_triton_is_gone(tmp_path: Path) -> None:
    name = f"trireme_{NAMESPACE}_{dead_pid()}_5c1b"
    with sleeper(name) as orphan, sleeper("trireme_1_2_5c1b") as other:
        while name not in command(orphan.pid):
            time.sleep(0.01)
        sweep(tmp_path)
        assert orphan.wait(10) == -9
        assert other.poll() is None


def command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode()
