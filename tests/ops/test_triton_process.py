"""Triton's process: ports, failures in Triton's own words, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import astuple
from pathlib import Path

import pytest

from ops import triton_process
from ops.triton_log import failure
from ops.triton_process import Ports, PortTakenError, TritonError, TritonServer, install
from tests.ops.conftest import processes_of_group, write_model


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """Put a tritonserver of one's own making on PATH, and a virtual environment in `sys.prefix`."""
    prefix = tmp_path / "an environment"
    (prefix / "bin").mkdir(parents=True)
    monkeypatch.setattr(sys, "prefix", str(prefix))
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)

    def write(script: str) -> None:
        (programs / "tritonserver").write_text(f"#!/bin/sh\n{script}\n")
        (programs / "tritonserver").chmod(0o755)

    return write


@pytest.fixture
def server(tmp_path, repository):
    server = TritonServer(repository, log=tmp_path / "logs" / "triton.log")
    yield server
    server.stop()


# Ports


def test_free_ports_differ_and_can_be_bound():
    ports = Ports.free()
    assert len(set(astuple(ports))) == 3
    ports.check("127.0.0.1")


@pytest.mark.parametrize(
    ("field", "variable"),
    [("http", "PORT"), ("grpc", "GRPC_PORT"), ("metrics", "METRICS_PORT")],
)
def test_a_taken_port_is_named_with_its_variable(field, variable):
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        ports = Ports(**{**vars(Ports.free()), field: taken})
        with pytest.raises(PortTakenError, match=rf"port {taken} .* {variable}=…"):
            ports.check("127.0.0.1")


def test_the_three_ports_must_differ():
    port = Ports.free().http
    with pytest.raises(PortTakenError, match=r"GRPC_PORT=…"):
        Ports(port, port, Ports.free().metrics).check("127.0.0.1")


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_addresses_can_be_reached_from_here(tmp_path, host):
    server = TritonServer(tmp_path, log=tmp_path / "log", host=host, ports=Ports(8000, 8001, 8002))
    assert server.http_address == "127.0.0.1:8000"
    assert server.grpc_address == "127.0.0.1:8001"
    assert server.metrics_address == "127.0.0.1:8002"


@pytest.mark.parametrize("host", ["::1", "no host"])
def test_a_host_without_an_ipv4_address_is_refused(tmp_path, host):
    with pytest.raises(TritonError, match="is no IPv4 address"):
        TritonServer(tmp_path, log=tmp_path / "log", host=host)


# What the log says

NOISE = """\
E1120 09:59:34.619751 15209 server.cc:241] "CudaDriverHelper has not been initialized."
I1120 09:59:34.620793 15209 model_lifecycle.cc:472] "loading: m:1"
Error: Failed to initialize NVML
+-------+---------+
| Model | Version |
"""


def test_a_failure_is_told_once_and_without_noise():
    log = (
        NOISE
        + r"""
E1120 09:59:36.258926 15209 backend_model.cc:692] "ERROR: Failed to create instance: no engine\n"
E1120 09:59:36.259045 15209 model_lifecycle.cc:642] "failed to load 'm': no engine\n\nAt:\n m.py\n"
I1120 09:59:36.259060 15209 model_lifecycle.cc:777] "failed to load 'm'"
error: creating server: Internal - failed to load all models
"""
    )
    assert failure(log) == "failed to load 'm': no engine\n\nAt:\n m.py"


def test_a_dead_python_process_is_told_with_what_it_printed():
    log = NOISE + (
        "Fatal Python error: Aborted\n"
        "E1120 09:59:45.091099 15348 model_lifecycle.cc:642] \"Stub process 'm' is not healthy.\""
    )
    assert failure(log) == "Fatal Python error: Aborted\nStub process 'm' is not healthy."


def test_a_config_that_does_not_parse_is_told_with_its_line():
    log = NOISE + '[libprotobuf ERROR text_format.cc:337] Error parsing: 4:54: Expected ","'
    assert failure(log) == 'Error parsing: 4:54: Expected ","'


def test_an_exception_that_ends_triton_is_told_without_its_trace():
    log = """\
W1128 15:09:19.526127 26506 pinned_memory_manager.cc:170] "failed to allocate pinned memory"
terminate called after throwing an instance of 'boost::interprocess::lock_exception'
  what():  boost::interprocess::lock_exception
Signal (6) received.
 0# 0x000055E664B3152D in /libexec/tritonserver/bin/tritonserver
10# abort in /lib/x86_64-linux-gnu/libc.so.6
"""
    first, *rest = failure(log).splitlines()
    assert first.endswith("'boost::interprocess::lock_exception'")
    assert rest[:2] == ["  what():  boost::interprocess::lock_exception", "Signal (6) received."]
    assert "was stopped for longer than Triton waits" in " ".join(rest[2:])
    assert "# " not in failure(log)
    assert "was stopped" not in failure("terminate called after throwing 'std::bad_alloc'")


def test_a_log_without_errors_gives_its_end():
    log = [f"line {n}" for n in range(30)]
    assert failure("\n".join(log)).splitlines()[0] == "line 10"
    assert failure("\n".join([*log, "+----+", "| row |", ""])).splitlines()[-1] == "line 29"


# The wrapper and the process, with a tritonserver of our own making


def test_the_systems_tritonserver_gets_our_python(fake):
    fake('echo "$PATH|$LD_LIBRARY_PATH|$*"')
    done = subprocess.run(
        [install(), "--model-repository=a b"], env={}, capture_output=True, text=True, check=True
    )
    path, libraries, arguments = done.stdout.strip().split("|")
    assert path.split(":")[0] == f"{sys.prefix}/bin"
    assert libraries == ""
    assert arguments.startswith("--backend-config=python,shm-region-prefix-name=trireme_")
    assert arguments.endswith("_ --model-repository=a b")


def test_only_an_environment_gets_a_wrapper(monkeypatch):
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    with pytest.raises(TritonError, match=r"\.venv/bin/python"):
        install()


def test_a_missing_repository_is_named(tmp_path):
    with pytest.raises(TritonError, match="make repository"):
        TritonServer(tmp_path / "none", log=tmp_path / "log").start()


def test_a_path_that_triton_cannot_take_is_named(tmp_path):
    repository = tmp_path / "two words"
    repository.mkdir()
    with pytest.raises(TritonError, match="takes no path with spaces"):
        TritonServer(repository, log=tmp_path / "log").start()


def test_an_early_end_is_told_in_the_logs_words(fake, server):
    fake('echo "error: no models here"; exit 1')
    with pytest.raises(TritonError, match="ended before it was ready:\nerror: no models here"):
        server.start()
    assert not server.running


def test_too_long_a_start_is_given_up(fake, server):
    fake("exec sleep 100")
    with pytest.raises(TritonError, match=r"not ready after 0\.5 s"):
        server.start(timeout_s=0.5)
    assert not server.running


def test_what_does_not_end_when_asked_is_killed(fake, server, monkeypatch):
    fake("trap '' TERM; sleep 100 & wait")
    # The shell minds no SIGTERM by the time that it has a child.
    monkeypatch.setattr(
        server,
        "_await_ready",
        lambda timeout_s: wait_until(lambda: len(processes_of_group(server.pid)) == 2),
    )
    server.start()
    group = server.pid
    server.stop(grace_s=0.1)
    assert processes_of_group(group) == []


# The packaged server


@pytest.mark.integration
def test_a_served_model_answers_and_leaves_no_process(server):
    with server:
        group = server.pid
        assert len(processes_of_group(group)) == 2  # Triton and the model's Python
        answer = generate(server.http_address, "hello", 2)
        assert answer == f"{sys.prefix} hello" * 2
        metrics = urllib.request.urlopen(f"http://{server.metrics_address}/metrics").read()
        assert b"nv_inference_request_success" in metrics
    assert not server.running
    assert processes_of_group(group) == []


@pytest.mark.integration
def test_a_model_that_fails_to_load_is_told(tmp_path):
    model = (
        "class TritonPythonModel:\n"
        "    def initialize(self, args):\n"
        "        raise ValueError('there is no engine')\n"
    )
    repository = write_model(tmp_path / "repository", model)
    with pytest.raises(TritonError, match="ValueError: there is no engine"):
        TritonServer(repository, log=tmp_path / "log").start()


@pytest.mark.integration
def test_a_start_that_is_interrupted_leaves_no_process(server, monkeypatch):
    groups = []

    def interrupt() -> bool:
        groups.append(server.pid)
        if len(processes_of_group(server.pid)) > 1:  # the model's Python is being started
            raise KeyboardInterrupt
        return False

    monkeypatch.setattr(server, "_ready", interrupt)
    with pytest.raises(KeyboardInterrupt):
        server.start()
    assert processes_of_group(groups[0]) == []


@pytest.mark.integration
def test_the_wrapper_runs_from_anywhere_without_an_environment(repository):
    ports = Ports.free()
    command = [
        *("env", "-i", str(install()), f"--model-repository={repository}"),
        *(f"--http-port={ports.http}", f"--grpc-port={ports.grpc}"),
        f"--metrics-port={ports.metrics}",
    ]
    process = subprocess.Popen(
        command, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        address = f"127.0.0.1:{ports.http}"
        wait_until(lambda: generate(address, "hi", 1) == f"{sys.prefix} hi")
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


@pytest.mark.integration
def test_triton_ends_with_the_program_that_started_it(repository, tmp_path):
    script = (
        "import sys, time; from pathlib import Path; from ops.triton_process import TritonServer\n"
        f"server = TritonServer(Path({str(repository)!r}), log=Path({str(tmp_path / 'log')!r}))\n"
        "server.start(); print(server.pid, flush=True); time.sleep(100)"
    )
    launcher = subprocess.Popen(
        [sys.executable, "-c", script], cwd=triton_process.ROOT, stdout=subprocess.PIPE, text=True
    )
    with launcher:
        assert launcher.stdout is not None
        group = int(launcher.stdout.readline())
        assert processes_of_group(group)
        launcher.kill()
    wait_until(lambda: not processes_of_group(group))


def generate(address: str, text: str, max_tokens: int) -> str:
    body = json.dumps({"text_input": text, "max_tokens": max_tokens}).encode()
    url = f"http://{address}/v2/models/ensemble/generate"
    with urllib.request.urlopen(urllib.request.Request(url, body)) as response:
        return str(json.load(response)["text_output"])


def wait_until(condition, timeout_s: float = 30.0) -> None:
    """Return when the condition holds; it may fail to connect until then."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except OSError:
            pass
        time.sleep(0.1)
    pytest.fail(f"not within {timeout_s:g} s")


@pytest.mark.integration
def test_a_killed_triton_leaves_its_log_and_nothing_else(server):
    server.start()
    pid = server.pid
    regions = list(Path("/dev/shm").glob(f"trireme_*_{pid}_*"))
    assert regions
    children = set(processes_of_group(pid)) - {pid}
    os.kill(pid, signal.SIGKILL)
    server.stop()
    assert processes_of_group(pid) == []
    assert children
    assert not any(region.exists() for region in regions)
    before = server.log.read_text()
    server.start()
    assert server.log.read_text().startswith(before)
