"""Environments and models: each peer in a virtual environment of its own, each model built once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from benchmarks.peers.systems import Environment, SystemSpec

ROOT = Path(__file__).resolve().parents[2]
"""The checkout, from which worker programs run."""


_STAMP = "built.json"


class PrepareError(Exception):
    """A peer can't be installed or its model can't be built. The message is for a person."""


@dataclass(frozen=True)
class Workshop:
    """The folder that holds environments and models, ``.cache/peers`` by default."""

    folder: Path

    def python(self, system: SystemSpec) -> Path:
        """The Python that runs a system's worker, installing its environment where that is needed.

        Raises:
            PrepareError: pip failed.
        """
        if system.environment is None:
            return Path(sys.executable)
        return self._install(system.environment)

    def _install(self, environment: Environment) -> Path:
        home = self.folder / environment.name / "venv"
        requirements = environment_file(environment)
        key = requirements.read_text() + repr(environment)
        stamp = home / "installed"
        python = home / "bin" / "python"
        if stamp.is_file() and stamp.read_text() == key:
            return python
        print(f"{environment.name}: installing {requirements.relative_to(ROOT)}", flush=True)
        venv.create(home, with_pip=True, clear=True)
        log = self.folder / environment.name / "pip.log"
        pip: list[str | Path] = [
            python,
            "-m",
            "pip",
            "--quiet",
            "--disable-pip-version-check",
            "--no-input",
        ]
        install = [*pip, "install", "--no-deps", "--require-hashes", "--requirement", requirements]
        if environment.has_torch:
            _run([python, ROOT / "ops" / "install_torch.py"], log)
        _run(install, log, environment.variables)
        stamp.write_text(key)
        return python

    def model(self, system: SystemSpec, checkpoint: Path, place: str = "models") -> Path:
        """The folder of a system's model, in a folder of such models.

        A peer's is built once for its requirements, program and options, ours for its builder.

        Raises:
            PrepareError: The worker's ``build`` failed.
        """
        model = self.folder / place / system.name
        stamp = model / _STAMP
        key = json.dumps({"checkpoint": str(checkpoint), "options": system.options})
        sources = [worker_file(system)]
        if system.environment is not None:
            sources.append(environment_file(system.environment))
        else:
            sources += sorted(ROOT.glob("build/**/*.py"))
            sources += sorted(ROOT.glob("python_backend/engine/**/*.[ch]"))
        key += _digest(sources)
        if stamp.is_file() and stamp.read_text() == key:
            return model
        python = self.python(system)
        print(f"{system.name}: building the model", flush=True)
        shutil.rmtree(model, ignore_errors=True)
        model.mkdir(parents=True)
        command: list[str | Path] = [python, *worker_arguments(system, "build", model)]
        _run([*command, "--checkpoint", str(checkpoint)], model.with_suffix(".build.log"))
        stamp.write_text(key)
        return model


def stamp_of(model: Path) -> str:
    """What tells a model from others, and from what was made of its system before."""
    return hashlib.sha256((model / _STAMP).read_bytes()).hexdigest()[:16]


def _digest(files: Sequence[Path]) -> str:
    found = hashlib.sha256()
    for file in files:
        found.update(file.read_bytes())
    return found.hexdigest()


def environment_file(environment: Environment) -> Path:
    """The lock of an environment: each package with its version and digests."""
    return Path(__file__).parent / "requirements" / f"{environment.name}.txt"


def worker_file(system: SystemSpec) -> Path:
    """The program that holds a system."""
    return Path(__file__).parent / "workers" / f"{system.worker}.py"


def worker_arguments(system: SystemSpec, command: str, model: Path) -> list[str]:
    """Arguments of the Python that runs a worker program."""
    module = f"benchmarks.peers.workers.{system.worker}"
    options = json.dumps(system.options)
    return ["-m", module, command, "--model", str(model), "--options", options]


def worker_environment() -> dict[str, str]:
    """Environment variables of a worker: offline, and no packages but those of its environment."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {**kept, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "DO_NOT_TRACK": "1"}


def _run(
    command: Sequence[str | Path], log: Path, variables: Mapping[str, str] = MappingProxyType({})
) -> None:
    with log.open("wb") as output:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**worker_environment(), **variables},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        end = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise PrepareError(f"{command[0]} failed ({log}):\n{end}")
