"""``python -m ops.locks``: make the locks, with uv, from what the environments ask for.

An environment asks in ``NAME.in``; its lock is ``NAME.txt`` beside it: every package that it comes
to, with one version for each supported Python and the digests of all its files, so that nothing
else can be installed in its name. A version that is in a lock stays, unless ``--upgrade`` is asked
for.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = Path("requirements")
PEERS = Path("benchmarks/peers/requirements")


@dataclass(frozen=True)
class Environment:
    """What is locked together.

    Attributes:
        source: What the environment asks for, from the checkout's root.
        excludes: Files of packages that are left out, whoever asks for them.
        overrides: Files of versions that hold, whatever packages ask for.
        python: The oldest Python that it has to work with.
        wheels: Whether wheels suffice; where not, something is compiled when it is installed.
    """

    source: Path
    excludes: tuple[Path, ...] = ()
    overrides: tuple[Path, ...] = ()
    python: str = "3.10"
    wheels: bool = True

    @property
    def lock(self) -> Path:
        return self.source.with_suffix(".txt")

    @property
    def name(self) -> str:
        return self.source.stem

    def command(self, uv: Path, upgrade: bool) -> list[str]:
        """What makes the lock."""
        files = [("--excludes", each) for each in self.excludes]
        files += [("--overrides", each) for each in self.overrides]
        return [
            *(str(uv), "pip", "compile", "--quiet", "--universal", "--generate-hashes"),
            *("--python-version", self.python, "--custom-compile-command", "make locks"),
            *(word for option, file in files for word in (option, str(file))),
            *(("--only-binary", ":all:") if self.wheels else ()),
            *(("--upgrade",) if upgrade else ()),
            *(str(self.source), "--output-file", str(self.lock)),
        ]


_UNUSED = (REQUIREMENTS / "unused.in",)
_OVERRIDES = (REQUIREMENTS / "overrides.in",)
_CUDA = (REQUIREMENTS / "without-cuda.in",)
_TRITON = (REQUIREMENTS / "without-triton.in",)
_OF_PEERS = (*_CUDA, PEERS / "unused.in")

ENVIRONMENTS = (
    Environment(REQUIREMENTS / "serving.in", _UNUSED, _OVERRIDES),
    Environment(REQUIREMENTS / "gateway.in", _UNUSED),
    Environment(REQUIREMENTS / "dev.in", _UNUSED),
    Environment(REQUIREMENTS / "build.in", (*_CUDA, *_TRITON)),
    Environment(REQUIREMENTS / "cuda.in", _UNUSED, python="3.11"),
    Environment(REQUIREMENTS / "modelopt.in", (*_CUDA, *_TRITON)),
    Environment(REQUIREMENTS / "torch.in", _TRITON),
    Environment(REQUIREMENTS / "audit.in"),
    Environment(REQUIREMENTS / "clients.in"),
    Environment(REQUIREMENTS / "evaluation.in", (REQUIREMENTS / "without-sources.in",)),
    Environment(REQUIREMENTS / "kernels.in"),
    Environment(REQUIREMENTS / "locks.in"),
    Environment(PEERS / "llama-cpp.in", python="3.11", wheels=False),
    Environment(PEERS / "onnxruntime-genai.in", (*_OF_PEERS, *_TRITON), python="3.11"),
    Environment(PEERS / "openvino.in", (*_OF_PEERS, *_TRITON), python="3.11"),
    Environment(PEERS / "transformers.in", (*_OF_PEERS, *_TRITON), python="3.11"),
    Environment(PEERS / "vllm.in", _OF_PEERS, (PEERS / "overrides.in",), python="3.11"),
)
"""In this order: a lock that holds another to its versions is made first."""


def make(environment: Environment, uv: Path, upgrade: bool) -> bool:
    """Make a lock; whether it has changed.

    Raises:
        subprocess.CalledProcessError: uv failed, and said why.
    """
    lock = ROOT / environment.lock
    before = lock.read_text() if lock.exists() else ""
    subprocess.run(environment.command(uv, upgrade), cwd=ROOT, check=True)
    return lock.read_text() != before


def main(arguments: Sequence[str] | None = None) -> int:
    """Make all locks, or those that are named."""
    names = [environment.name for environment in ENVIRONMENTS]
    parser = argparse.ArgumentParser(prog="python -m ops.locks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *names], help="by default all")
    parser.add_argument("--upgrade", action="store_true", help="to the newest versions")
    options = parser.parse_args(arguments)
    uv = Path(sys.executable).with_name("uv")
    for environment in ENVIRONMENTS:
        if environment.name in (options.names or names):
            changed = make(environment, uv, options.upgrade)
            print(f"{environment.lock}: {'new' if changed else 'as it was'}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
