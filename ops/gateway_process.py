"""The gateway as a process beside Triton: started, watched until it can answer, stopped."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from ops.gateway_address import GatewayAddress
from ops.log_file import rotate, since
from ops.model_processes import ended
from ops.triton_process import ROOT, end_with_parent


class GatewayError(Exception):
    """The gateway cannot be started or failed. The message is for a person."""


@dataclass(frozen=True)
class Offer:
    """What a gateway lets somebody without a key see of itself.

    Attributes:
        model: A model that it serves; None where only those with a key may know.
        needs_key: Whether a request needs a key.
    """

    model: str | None
    needs_key: bool


class GatewayServer:
    """A gateway before one Triton, usable as a context manager.

        with GatewayServer("127.0.0.1:8001", port=8080, log=folder / "gateway.log") as gateway:
            openai.OpenAI(base_url=f"http://{gateway.address}/v1", api_key="none")

    `start()` returns when it has generated a token. It never outlives the program that started it.
    """

    def __init__(
        self,
        triton: str | None,
        *,
        port: int,
        log: Path,
        host: str = "127.0.0.1",
        config: Path | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        """Describe the process; nothing runs before `start()`.

        Args:
            triton: `host:port` of Triton's gRPC endpoint; None where a file says it.
            port: Where to listen.
            log: The file that takes its log, at its end; a long one is put aside first.
            host: The address to bind.
            config: Its configuration, see docs/gateway.md; None is one local Triton, no tenants.
            arguments: Further arguments of `python -m gateway`.
        """
        self.at = GatewayAddress.of(host, port, config)
        self.address = str(self.at)
        self.log = log
        self._command = [sys.executable, "-m", "gateway", "--host", host, "--port", str(port)]
        if config is not None:
            self._command += ["--config", str(config.resolve())]
        if triton is not None:
            self._command += ["--triton", triton]
        self._command += arguments
        self._log_start = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process's id, None when it does not run."""
        running = self._process is not None and self._process.poll() is None
        return self._process.pid if running and self._process else None

    def start(self, timeout_s: float = 60.0) -> None:
        """Start it and return when it can answer.

        Raises:
            GatewayError: It ended early, or no upstream was ready in time.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        rotate(self.log)
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )
        deadline = time.monotonic() + timeout_s
        try:
            while not self._ready():
                if self._process.poll() is not None:
                    raise GatewayError(f"the gateway ended before it was ready:\n{self.failure()}")
                if time.monotonic() > deadline:
                    raise GatewayError(f"the gateway was not ready after {timeout_s:g} s")
                time.sleep(0.05)
        except BaseException:
            self.stop()
            raise

    def stop(self, grace_s: float = 15.0) -> None:
        """End it: ask first, so that running answers finish, then kill it."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def offer(self) -> Offer:
        """What it offers, and to whom.

        Raises:
            GatewayError: It doesn't say.
        """
        try:
            with self._open("/v1/models") as response:
                return Offer(json.loads(response.read())["data"][0]["id"], needs_key=False)
        except urllib.error.HTTPError as error:
            if error.code == 401:
                return Offer(None, needs_key=True)
            raise GatewayError(f"the gateway answers /v1/models with {error.code}") from None
        except (OSError, ValueError, LookupError) as error:
            raise GatewayError(f"the gateway does not list its models: {error}") from None

    def failure(self) -> str:
        """How it ended, the end of its log in words without its requests, and where that is."""
        status = None if self._process is None else self._process.poll()
        how = [] if status is None else [f"it {ended(status)}"]
        said = map(_message, since(self.log, self._log_start).splitlines())
        lines = [line for line in said if line != _REQUEST][-5:]
        return "\n".join([*how, *lines, f"(the whole log: {self.log})"])

    def __enter__(self) -> GatewayServer:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _ready(self) -> bool:
        try:
            with self._open("/health/ready"):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def _open(self, path: str) -> Any:
        """Get a path of it; no proxy from the environment leads to this machine."""
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),
            urllib.request.HTTPSHandler(context=self.at.unnamed()),
        )
        return opener.open(f"{self.at.local_url}{path}", timeout=5)


_REQUEST = "request"
"""What a request's own line in the log says."""


def _message(line: str) -> str:
    try:
        return str(json.loads(line)["message"])
    except (ValueError, KeyError, TypeError):
        return line
