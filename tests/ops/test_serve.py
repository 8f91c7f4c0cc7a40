"""`python -m ops.serve`: what it prints works when pasted, and stopping it leaves nothing."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from gateway.configuration import ListenSettings
from ops import serve
from ops.gateway_address import GatewayAddress
from ops.gateway_process import GatewayError, GatewayServer
from ops.served_model import ServedModel
from ops.triton_process import ROOT, Ports, TritonServer
from tests.gateway.fakes import configuration
from tests.gateway.fakes import serving as gateway_serving
from tests.gateway.test_edge import certificate
from tests.ops.conftest import processes_of_group, write_model

QUESTION = "Isn't \"it\" 5 % of naïve users' cost?"
"""One that has to be quoted."""


def test_the_message_names_addresses_and_commands(tmp_path):
    server = TritonServer(tmp_path, log=Path(".cache/triton.log"), ports=Ports(8000, 8001, 8002))
    message = serve.message(server, "ensemble", QUESTION)
    assert "http://127.0.0.1:8000" in message
    assert "http://127.0.0.1:8002/metrics" in message
    assert "curl -s 127.0.0.1:8000/v2/models/ensemble/generate -d " in message
    assert "/bin/python -m clients " in message
    assert "/bin/perf_analyzer -m ensemble -u 127.0.0.1:8001 -i grpc --streaming" in message


@pytest.mark.parametrize(
    ("host", "warns"), [("127.0.0.1", False), ("localhost", False), ("0.0.0.0", True)]
)
def test_it_warns_where_triton_can_be_reached(tmp_path, host, warns):
    server = TritonServer(tmp_path, log=Path("triton.log"), host=host, ports=Ports(1, 2, 3))
    assert ("WARNING: other machines" in serve.message(server, "ensemble", QUESTION)) == warns


def test_with_the_gateway_its_commands_come_first(tmp_path):
    server = TritonServer(tmp_path, log=Path(".cache/triton.log"), ports=Ports(8000, 8001, 8002))
    message = serve.message(
        server,
        "ensemble",
        QUESTION,
        serve.openai_commands(GatewayAddress("127.0.0.1", 8080), "mine", QUESTION),
    )
    lines = message.splitlines()
    curl = next(line for line in lines if "curl" in line)
    words = shlex.split(curl)
    assert words[2] == "http://127.0.0.1:8080/v1/chat/completions"
    assert json.loads(words[-1])["messages"][0]["content"] == QUESTION
    assert json.loads(words[-1])["model"] == "mine"
    python = [line[2:] for line in lines if line.startswith("  ") and "curl" not in line]
    example = "\n".join(python[: python.index(next(p for p in python if "print(" in p)) + 1])
    compile(example, "example", "exec")
    assert 'base_url="http://127.0.0.1:8080/v1"' in example
    assert 'create(model="mine"' in example


def test_before_a_triton_that_cannot_stream_there_is_no_gateway(tmp_path):
    server = TritonServer(tmp_path, log=Path(".cache/triton.log"), ports=Ports(8000, 8001, 8002))
    message = serve.message(server, "ensemble", QUESTION, "OpenAI's API", streams=False)
    assert "No gateway: it streams" in message
    assert "decoupled_mode=false" in message
    assert "OpenAI" not in message
    assert "--stream" not in message
    asked = serve._parser().parse_args(["--repository", "r", "--gateway-port", "8080"])
    assert serve._gateway(asked, server, streams=False) is None
    asked.gateway_config = tmp_path / "gateway.yaml"
    with pytest.raises(GatewayError, match="serve without GATEWAY_CONFIG"):
        serve._gateway(asked, server, streams=False)


def test_where_a_key_is_wanted_the_commands_make_and_send_one(tmp_path, monkeypatch):
    config = tmp_path / "gateway.yaml"
    text = serve.openai_commands(GatewayAddress("127.0.0.1", 8080), "mine", QUESTION, config)
    curl = next(line for line in text.splitlines() if "curl" in line)
    assert "authorization: Bearer $TRIREME_API_KEY" in shlex.split(curl)
    assert f"-m gateway.admin --config {config} keys create acme --application chat)" in text
    assert 'api_key=os.environ["TRIREME_API_KEY"]' in text


@pytest.mark.parametrize(
    ("name", "resolved"),
    [("localhost", ""), ("api.acme.example", "--resolve api.acme.example:8080:127.0.0.1 ")],
)
def test_over_tls_the_commands_use_the_certificate_and_its_name(tmp_path, name, resolved):
    at = tls_address(tmp_path, 8080, name)
    text = serve.openai_commands(at, "mine", QUESTION)
    assert f"curl -s --cacert {tmp_path}/certificate.pem {resolved}https://{name}:8080/v1/" in text
    assert f"create_default_context(cafile='{tmp_path}/certificate.pem')" in text
    assert f'base_url="https://{name}:8080/v1", api_key="none", http_client=http_client' in text


def test_a_gateway_that_speaks_tls_is_found_ready(tmp_path):
    tls = certificate(tmp_path, "api.acme.example")
    listen = ListenSettings(port=0, tls=tls, shutdown_grace_s=0)
    with gateway_serving(None, configuration(listen=listen)) as running:
        port = int(running.url.rpartition(":")[2])
        config = tls_config(tmp_path)
        server = GatewayServer(None, port=port, log=tmp_path / "log", config=config)
        assert server._ready()
        assert server.offer().model is not None


def test_the_gateway_is_told_of_a_promotion_and_a_rollback(tmp_path, monkeypatch):
    monkeypatch.setattr(serve, "_NAME_S", 0)
    for number, name in (("1", "before"), ("2", "after")):
        folder = tmp_path / "tensorrt_llm" / number
        folder.mkdir(parents=True)
        (folder / "engine.json").write_text("{}")
        (folder / "manifest.json").write_text(json.dumps({"name": name}))

    class Triton(TritonServer):
        ready: ClassVar = ["1"]

        def __init__(self) -> None:
            pass

        def versions(self, model):
            assert model == "tensorrt_llm"
            return self.ready

    words = ["--repository", str(tmp_path), "--gateway-port", "8080"]
    options = serve._parser().parse_args([*words, "--log", str(tmp_path / "triton.log")])
    naming = serve._Naming(options, Triton())
    file = tmp_path / "served-8080.json"
    naming.look()
    assert not file.exists()  # what it was started with
    told = []
    for ready in (["1", "2"], ["2"], [], ["1"]):
        Triton.ready = ready
        naming.look()
        told.append(json.loads(file.read_text())["name"])
    assert told == ["after", "after", "after", "before"]


def tls_config(folder: Path) -> Path:
    """A gateway's configuration that names a certificate of the folder."""
    config = folder / "gateway.yaml"
    names = f"certificate: {folder}/certificate.pem, key: {folder}/key.pem"
    config.write_text(f"listen: {{tls: {{{names}}}}}")
    return config


def tls_address(folder: Path, port: int, name: str) -> GatewayAddress:
    certificate(folder, name)
    return GatewayAddress.of("0.0.0.0", port, tls_config(folder))


def test_what_a_gateways_configuration_lacks_is_its_own_to_say(tmp_path):
    for text in ("", "listen: {}", "listen: [1", "listen: {tls: {certificate: nowhere.pem}}"):
        config = tmp_path / "gateway.yaml"
        config.write_text(text)
        assert GatewayAddress.of("127.0.0.1", 8080, config).name == "127.0.0.1"


@dataclass
class Serving:
    process: subprocess.Popen[str]
    triton: int
    message: str


def command(repository: Path, log: Path, ports: Ports) -> list[str]:
    return [
        *(sys.executable, "-m", "ops.serve", "--repository", str(repository), "--log", str(log)),
        *("--http-port", str(ports.http), "--grpc-port", str(ports.grpc)),
        *("--metrics-port", str(ports.metrics)),
    ]


@contextmanager
def serving(repository: Path, log: Path) -> Iterator[Serving]:
    """Run `python -m ops.serve` until it has printed its message."""
    process = subprocess.Popen(
        command(repository, log, Ports.free()), cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "Ctrl-C" in line:
                break
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        yield Serving(process, int(children[0]), "".join(lines))
    finally:
        process.terminate()
        process.wait(30)
        if process.stdout is not None:
            process.stdout.close()


@pytest.mark.integration
def test_ctrl_c_stops_all_of_it_quietly(repository, tmp_path):
    with serving(repository, tmp_path / "log") as server:
        assert processes_of_group(server.triton)
        server.process.send_signal(signal.SIGINT)
        rest, _ = server.process.communicate(timeout=30)
        assert (server.process.returncode, rest) == (0, "\nStopped.\n")
        assert processes_of_group(server.triton) == []


@pytest.mark.integration
def test_what_it_prints_works_when_pasted(repository, tmp_path):
    with serving(repository, tmp_path / "log") as server:
        lines = server.message.replace("\\\n", "").splitlines()
        curl = next(line for line in lines if "curl" in line)
        answer = subprocess.run(shlex.split(curl), capture_output=True, text=True, check=True)
        assert ServedModel().question in answer.stdout
        load = next(line for line in lines if "perf_analyzer" in line)
        report = subprocess.run(
            # Short windows: that it runs matters here, not what it measures.
            [*shlex.split(load), "--measurement-interval=500", "--stability-percentage=999"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert "Concurrency: 4, throughput: " in report.stdout
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0


@pytest.mark.integration
def test_a_crash_is_told_in_the_logs_words(repository, tmp_path, capfd):
    with serving(repository, tmp_path / "log") as server:
        subprocess.run(["kill", "-SEGV", str(server.triton)], check=True)
        assert server.process.wait(30) == 1
    assert "tritonserver was ended by SIGSEGV" in capfd.readouterr().err


@pytest.mark.integration
def test_a_model_s_process_that_dies_ends_it(repository, tmp_path, capfd):
    """Triton itself would say for ever that it is ready, and answer nothing."""
    with serving(repository, tmp_path / "log") as server:
        models = set(processes_of_group(server.triton)) - {server.triton}
        pid = models.pop()
        os.kill(pid, signal.SIGKILL)
        assert server.process.wait(40) == 1
    told = capfd.readouterr().err
    assert f"error: the process of ensemble (pid {pid}) was ended by SIGKILL:" in told
    assert "server_version" not in told  # the tables that Triton prints when it starts


@pytest.mark.integration
def test_who_is_killed_leaves_the_ports_to_the_next(repository, tmp_path):
    with serving(repository, tmp_path / "log") as server:
        server.process.kill()
        server.process.wait()
        deadline = time.monotonic() + 20
        while processes_of_group(server.triton):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_where_the_gateway_died_triton_is_not_waited_for(tmp_path, monkeypatch, capsys):
    """It may keep a hold of what the gateway was in the middle of, and wait for that."""
    stopped: list[float] = []

    class Triton(TritonServer):
        running = True

        def start(self, timeout_s: float = 0) -> None: ...

        def stop(self, grace_s: float = 15.0) -> None:
            stopped.append(grace_s)

        def is_decoupled(self, model: str) -> bool:
            return True

        def versions(self, model: str) -> list[str]:
            return []

    class Gateway(GatewayServer):
        pid = None

        def start(self, timeout_s: float = 0) -> None:
            self.log.write_text("")

    gateway = Gateway("127.0.0.1:1", port=1, log=tmp_path / "gateway.log")
    monkeypatch.setattr(serve, "TritonServer", Triton)
    monkeypatch.setattr(serve, "_gateway", lambda *_: gateway)
    monkeypatch.setattr(serve, "_commands", lambda *_: "")
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    arguments = ["--repository", str(tmp_path), "--log", str(tmp_path / "triton.log")]
    assert serve.main(arguments) == 1
    assert "error: the gateway ended:" in capsys.readouterr().err
    assert stopped[0] < 5


def test_a_taken_port_is_told_in_one_line(repository, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        ports = Ports(other.getsockname()[1], 1, 2)
        done = subprocess.run(
            command(repository, tmp_path / "log", ports), cwd=ROOT, capture_output=True, text=True
        )
    assert (done.returncode, done.stderr) == (
        1,
        f"error: port {ports.http} on 127.0.0.1 cannot be used (Address already in use): "
        "choose another with PORT=…\n",
    )


@pytest.mark.integration
def test_a_model_that_fails_to_load_ends_it(tmp_path):
    repository = write_model(tmp_path / "repository", "import nonexistent")
    done = subprocess.run(
        command(repository, tmp_path / "log", Ports.free()),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "No module named 'nonexistent'" in done.stderr
