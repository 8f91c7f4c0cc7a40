"""One Triton server as an object: found or prepared, started, watched until ready, stopped.

`install()` writes `.venv/bin/tritonserver`, a wrapper that runs from any folder with no environment
variables set; `TritonServer` runs that wrapper. Serving, load tests, drills and the integration
tests all start Triton through here, so that a server never outlives the program that started it.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from functools import partial
from pathlib import Path
from types import TracebackType

from ops.leftovers import REGION_ARGUMENT, sweep
from ops.log_file import rotate, since
from ops.model_processes import ModelProcesses
from ops.preflight import (
    WRAPPER_MARK,
    PreflightError,
    check_path,
    external_tritonserver,
    find_libpython,
)
from ops.triton_guard import CONTROL_HEADER, deaf_copy, restrictions
from ops.triton_log import failure

ROOT = Path(__file__).resolve().parents[1]
"""The checkout, whose packages the model repository's `model.py` files import."""


class TritonError(Exception):
    """Triton cannot be started or failed. The message is for a person."""


class PortTakenError(TritonError):
    """Something else listens on a port that Triton was to use."""


@dataclass(frozen=True)
class Ports:
    """Where one Triton listens."""

    http: int
    grpc: int
    metrics: int

    @classmethod
    def free(cls) -> Ports:
        """Return three ports that were free a moment ago."""
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in fields(cls)]
            for each in sockets:
                each.bind(("127.0.0.1", 0))
            return cls(*(each.getsockname()[1] for each in sockets))

    def check(self, host: str) -> None:
        """Raise `PortTakenError`, with the variable of `make serve`, unless all three are free."""
        variables = ("PORT", "GRPC_PORT", "METRICS_PORT")
        with contextlib.ExitStack() as stack:  # all held at once: the three must differ
            for port, variable in zip(astuple(self), variables, strict=True):
                probe = stack.enter_context(socket.socket())
                # As Triton does, so that a port in TIME_WAIT counts as free.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((host, port))
                    probe.listen()
                except OSError as error:
                    raise PortTakenError(
                        f"port {port} on {host} cannot be used ({error.strerror}): "
                        f"choose another with {variable}=…"
                    ) from None


class TritonServer:
    """A tritonserver process group on one model repository, usable as a context manager.

        with TritonServer(repository, log=tmp_path / "triton.log") as triton:
            client = tritonclient.grpc.InferenceServerClient(triton.grpc_address)

    `start()` returns when every model is ready and raises `TritonError` with the log's own reason
    when one is not; `stop()` leaves no process behind. If the program that started it is killed,
    the kernel ends Triton, and Triton's Python processes follow it within seconds.
    """

    def __init__(
        self,
        repository: Path,
        *,
        log: Path,
        host: str = "127.0.0.1",
        ports: Ports | None = None,
        arguments: Sequence[str] = (),
        control_token: str | None = None,
    ) -> None:
        """Describe the server; nothing runs before `start()`.

        Args:
            repository: What `--model-repository` reads.
            log: The file that takes all that Triton and its models print, at its end; a long one
                is put aside first.
            host: The name or IPv4 address to bind, for all three ports.
            ports: Where to listen; free ports by default.
            arguments: Further arguments of tritonserver, e.g. `["--log-verbose=1"]`.
            control_token: Lets models be loaded anew while the server runs, by those who send
                this token in the header `CONTROL_HEADER`.

        Raises:
            TritonError: the host has no IPv4 address.
        """
        self.repository = repository
        self.log = log
        self.host = _ipv4(host)
        self.ports = ports or Ports.free()
        self.arguments = tuple(arguments)
        self._control_token = control_token
        self._log_start = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._models: ModelProcesses | None = None

    @property
    def is_reachable(self) -> bool:
        """Whether other machines may reach it."""
        return not ipaddress.ip_address(self.host).is_loopback

    @property
    def http_address(self) -> str:
        """`host:port` of the HTTP endpoint, reachable from this machine."""
        return self._address(self.ports.http)

    @property
    def grpc_address(self) -> str:
        """`host:port` of the gRPC endpoint, reachable from this machine."""
        return self._address(self.ports.grpc)

    @property
    def metrics_address(self) -> str:
        """`host:port` of the Prometheus endpoint, reachable from this machine."""
        return self._address(self.ports.metrics)

    def _address(self, port: int) -> str:
        return f"{'127.0.0.1' if self.host == '0.0.0.0' else self.host}:{port}"

    @property
    def pid(self) -> int | None:
        """The running tritonserver's process id, None when it does not run."""
        return self._process.pid if self.running and self._process else None

    @property
    def running(self) -> bool:
        """Whether the process is alive, ready or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def dead_models(self) -> frozenset[int]:
        """The processes of its Python models that have ended and that Triton has not asked to.

        A model that is unloaded is here for a moment, too. Triton 2.51 starts no such process
        again, answers no request that needs it, and goes on to say that it is ready.
        """
        return frozenset() if self._models is None else self._models.dead()

    def told(self, dead_model: int) -> str:
        """How the process of a model ended."""
        return "" if self._models is None else self._models.told(dead_model)

    def start(self, timeout_s: float = 300.0) -> None:
        """Start Triton and return when every model in the repository is ready.

        Raises:
            PortTakenError: a port is in use.
            TritonError: the repository is missing, Triton ended early or is not ready in time.
        """
        if self.running:
            raise TritonError("this Triton already runs")
        if not self.repository.is_dir():
            raise TritonError(
                f"no model repository at {self.repository}: `make repository` makes it"
            )
        try:
            check_path(self.repository.resolve())
        except PreflightError as error:
            raise TritonError(str(error)) from None
        self.ports.check(self.host)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        sweep()
        rotate(self.log)
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                self._command(install()),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A group of its own: a terminal's Ctrl-C reaches the launcher alone, and what is
                # left of the group can be killed as one.
                start_new_session=True,
                # At once: the gateway goes as well, and who starts both anew needs the ports.
                preexec_fn=partial(end_with_parent, signal.SIGKILL),
            )
        self._models = ModelProcesses(self._process.pid)
        try:
            self._await_ready(timeout_s)
            self._models.dead()  # takes note of whose process each is
        except BaseException:
            self.stop()
            raise

    def stop(self, grace_s: float = 15.0) -> None:
        """End Triton: ask first, then kill whatever is left of its process group.

        One that has lost a model's process waits for it to the end, and can answer nobody: it gets
        at most a moment.
        """
        if self.dead_models:
            grace_s = min(grace_s, BROKEN_GRACE_S)
        process, self._process, self._models = self._process, None, None
        if process is None:
            return
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
        # What is left: Triton itself when it takes too long, or the Python processes of a Triton
        # that was told to end while it loaded them.
        deadline = time.monotonic() + 5
        with contextlib.suppress(ProcessLookupError):
            while time.monotonic() < deadline:
                os.killpg(process.pid, signal.SIGKILL)
                process.poll()
                time.sleep(0.01)
        sweep()

    def wait(self) -> int:
        """Return the exit status when the process ends by itself."""
        if self._process is None:
            raise TritonError("this Triton was not started")
        return self._process.wait()

    def failure(self) -> str:
        """What the log says went wrong, in Triton's own words, and where the log is."""
        return f"{failure(since(self.log, self._log_start))}\n(the whole log: {self.log})"

    def __enter__(self) -> TritonServer:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _command(self, program: Path) -> list[str]:
        return [
            str(program),
            f"--model-repository={self.repository.resolve()}",
            f"--http-address={self.host}",
            f"--grpc-address={self.host}",
            f"--metrics-address={self.host}",
            f"--http-port={self.ports.http}",
            f"--grpc-port={self.ports.grpc}",
            f"--metrics-port={self.ports.metrics}",
            f"--exit-timeout-secs={_EXIT_S}",
            *self._control_arguments(),
            *restrictions(self._control_token),
            *self.arguments,
        ]

    def _control_arguments(self) -> list[str]:
        if self._control_token is None:
            return []
        return ["--model-control-mode=explicit", "--load-model=*"]

    def _await_ready(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not self._ready():
            if not self.running:
                raise TritonError(f"tritonserver ended before it was ready:\n{self.failure()}")
            if time.monotonic() > deadline:
                raise TritonError(f"Triton was not ready after {timeout_s:g} s:\n{self.failure()}")
            time.sleep(0.1)

    def _ready(self) -> bool:
        try:
            self._request("GET", "/v2/health/ready")
            models = json.loads(self._request("POST", "/v2/repository/index"))
        except OSError:
            return False
        return all(model.get("state") == "READY" for model in models)

    def is_decoupled(self, model: str) -> bool:
        """Whether a request to a model may stream; of one that isn't served nobody says no."""
        try:
            config = json.loads(self._request("GET", f"/v2/models/{model}/config"))
        except OSError:
            return True
        return bool(config["model_transaction_policy"]["decoupled"])

    def versions(self, model: str) -> list[str]:
        """The versions of a model that are ready; of one that isn't served there are none."""
        try:
            found: list[str] = json.loads(self._request("GET", f"/v2/models/{model}"))["versions"]
        except OSError:
            return []
        return found

    def _request(self, method: str, path: str) -> bytes:
        headers = {CONTROL_HEADER: self._control_token} if self._control_token else {}
        request = urllib.request.Request(
            f"http://{self.http_address}{path}", method=method, headers=headers
        )
        # No proxy from the environment: this server is on this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=5) as response:
            body: bytes = response.read()
        return body


def _ipv4(host: str) -> str:
    """Resolve a host: Triton binds names to nothing, and writes IPv6 addresses wrongly."""
    try:
        return socket.gethostbyname(host)
    except OSError:
        raise TritonError(f"{host!r} is no IPv4 address, nor the name of one") from None


_EXIT_S = 10
"""How long Triton waits for its models when it ends, with its ports held. Triton 2.51 keeps a hold
of one where an open gRPC stream is cancelled just as its last response leaves (docs/gateway.md),
and would then wait for 30 s."""
BROKEN_GRACE_S = 2.0
"""How long it gets to end where a part of a server has died: more seldom helps."""

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def end_with_parent(number: int = signal.SIGTERM) -> None:
    """In the child, before exec: have the kernel send a signal when the launcher's thread ends."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, number)


def install() -> Path:
    """Write this environment's `bin/tritonserver` and what it needs; return its path.

    The wrapper runs the tritonserver on PATH where there is one (as in NVIDIA's containers), else
    the one that the nvidia-pytriton wheel carries. Either way the server's embedded Python finds
    this environment's packages, and by its `trireme.pth` ours.

    Raises:
        TritonError: there is no tritonserver for this Python, or it lacks its shared library.
    """
    if sys.prefix == sys.base_prefix:
        raise TritonError("this Python is not the virtual environment's: use .venv/bin/python")
    _write(Path(sysconfig.get_path("purelib"), "trireme.pth"), f"{ROOT}\n")
    wrapper = Path(sys.prefix, "bin", "tritonserver")
    external = external_tritonserver()
    text = _wrapper(external) if external else _wrapper(*_prepare_packaged())
    _write(wrapper, text, mode=0o755)
    return wrapper


def _prepare_packaged() -> tuple[str, list[str], list[Path]]:
    """Lay out the packaged server; return its program, arguments and library folders.

    The Python backend looks for its stub beside its library, and the wheel keeps one stub for each
    Python elsewhere. Symbolic links, so that the stub's own search path still leads to the wheel.
    """
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    packaged = Path(sysconfig.get_path("purelib"), "pytriton", "tritonserver")
    stub = packaged / "python_backend_stubs" / python / "triton_python_backend_stub"
    if not stub.exists():
        raise TritonError(
            f"no tritonserver on PATH, and none packaged for Python {python}: `make venv`"
        )
    home = Path(sys.prefix, "libexec", "tritonserver")
    backend = home / "backends" / "python"
    for target in [*(packaged / "backends" / "python").iterdir(), stub]:
        _link(backend / target.name, target)
    # A folder with this one library: its own may hold others that would shadow the wheel's.
    try:
        libpython = find_libpython()
    except PreflightError as error:
        raise TritonError(str(error)) from None
    _link(home / "lib" / libpython.name, libpython)
    # The copy isn't where the program looks for the wheel's libraries from.
    program = deaf_copy(packaged / "bin" / "tritonserver", home / "bin" / "tritonserver")
    libraries = [home / "lib", packaged.parents[1] / "nvidia_pytriton.libs"]
    return str(program), [f"--backend-directory={backend.parent}"], libraries


def _wrapper(program: str, arguments: Iterable[str] = (), libraries: Iterable[Path] = ()) -> str:
    lines = [
        "#!/bin/sh",
        f"{WRAPPER_MARK}: written by ops/triton_process.py, which rewrites it.",
        # The stub's embedded Python takes the first python3 on PATH for its own. Python 3.10's also
        # minds these two, later ones do not.
        "unset PYTHONHOME PYTHONPATH",
        "PATH=${PATH:-/usr/local/bin:/usr/bin:/bin}",
        _prepend("PATH", Path(sys.prefix, "bin")),
        *(_prepend("LD_LIBRARY_PATH", folder) for folder in libraries),
    ]
    command = " ".join(shlex.quote(word) for word in [program, *arguments])
    return "\n".join([*lines, f'exec {command} {REGION_ARGUMENT} "$@"', ""])


def _prepend(variable: str, folder: Path) -> str:
    return f'export {variable}={shlex.quote(str(folder))}"${{{variable}:+:${variable}}}"'


def _link(link: Path, target: Path) -> None:
    if link.is_symlink() and link.readlink() == target:
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(target)


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file unless it is there, and at once: another process may be about to read it."""
    if path.exists() and path.read_text(errors="replace") == text:
        return
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=path.name, delete=False) as file:
        file.write(text)
    Path(file.name).chmod(mode)
    Path(file.name).replace(path)


if __name__ == "__main__":
    print(install())
