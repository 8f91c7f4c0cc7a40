"""Whose process ended, and how."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ops.gateway_process import GatewayServer
from ops.model_processes import ModelProcesses, ended


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("how", "told"),
    [(signal.SIGKILL, "was ended by SIGKILL"), (signal.SIGABRT, "was ended by SIGABRT")],
)
def test_a_process_that_was_ended_is_named_with_its_model(tmp_path, how, told):
    stub = "import time; time.sleep(60)"
    file = tmp_path / "tensorrt_llm" / "1" / "model.py"
    child = subprocess.Popen([sys.executable, "-c", stub, str(file)])
    processes = ModelProcesses(os.getpid())
    assert child.pid not in processes.dead()
    until(lambda: str(file) in Path(f"/proc/{child.pid}/cmdline").read_text())
    assert child.pid not in processes.dead()
    os.kill(child.pid, how)
    until(lambda: child.pid in processes.dead())
    assert processes.told(child.pid) == f"the process of tensorrt_llm (pid {child.pid}) {told}"
    child.wait()


def test_one_that_ended_by_itself():
    child = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    processes = ModelProcesses(os.getpid())
    until(lambda: child.pid in processes.dead())
    told = processes.told(child.pid)
    assert told == f"the process of a model (pid {child.pid}) ended with status 3"
    child.wait()
    assert processes.told(child.pid).endswith(f"(pid {child.pid}) ended")


def test_how_a_process_ended():
    assert ended(1) == "ended with status 1"
    assert ended(-9) == "was ended by SIGKILL"
    assert ended(-40) == "was ended by signal 40"


def test_of_a_gateway_s_log_requests_tell_nothing(tmp_path: Path):
    log = tmp_path / "gateway.log"
    server = GatewayServer("127.0.0.1:1", port=1, log=log)
    requests = '{"message":"request","status":200}\n' * 20
    log.write_text(f'{{"message":"the disk is full"}}\n{requests}MemoryError\n')
    assert server.failure().splitlines()[:-1] == ["the disk is full", "MemoryError"]
