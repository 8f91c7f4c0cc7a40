"""Where Triton's load generator, perf_analyzer, is on this machine.

The wheel of tritonclient 2.51 carries the program but not all of the libraries it is linked
against; the wheel of the packaged server has those, under other names. `locate()` puts the two
together as `.venv/bin/perf_analyzer`, so that load tests need no package of the system.
"""

from __future__ import annotations

import shlex
import shutil
import sys
import sysconfig
from pathlib import Path

# Library that perf_analyzer asks for: the file in the server's wheel that holds it.
_LIBRARIES = {
    "libb64.so.0d": "libb64-*.so.0d",
    "libcrypto.so.3": "libcrypto-*.so.3",
    "libcudart.so.12": "libcudart-*.so.12.*",
    "libssl.so.3": "libssl-*.so.3",
}


class PerfAnalyzerNotFoundError(Exception):
    """There is no perf_analyzer here. The message says how to get one."""


def locate() -> Path:
    """Return a perf_analyzer that runs: this environment's, else the one on PATH.

    Raises:
        PerfAnalyzerNotFoundError: there is neither.
    """
    program = Path(sys.prefix, "bin", "perf_analyzer")
    home = Path(sys.prefix, "libexec", "perf_analyzer")
    if _is_binary(program):  # as the wheel installs it
        _wrap(program, home)
    if (home / program.name).exists() and program.exists():
        return program
    on_path = shutil.which("perf_analyzer")
    if on_path is None:
        raise PerfAnalyzerNotFoundError(
            "perf_analyzer is neither in this environment nor on PATH: `make venv` installs it on "
            "x86_64, NVIDIA's Triton SDK container has it elsewhere"
        )
    return Path(on_path)


def _is_binary(program: Path) -> bool:
    if not program.exists():
        return False
    with program.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _wrap(program: Path, home: Path) -> None:
    """Move the binary to its own folder, give it its libraries, put a wrapper in its place."""
    packaged = Path(sysconfig.get_path("purelib"), "nvidia_pytriton.libs")
    home.mkdir(parents=True, exist_ok=True)
    for name, pattern in _LIBRARIES.items():
        for library in packaged.glob(pattern):
            (home / name).unlink(missing_ok=True)
            (home / name).symlink_to(library)
    binary = program.replace(home / program.name)
    program.write_text(
        "#!/bin/sh\n"
        "# Trireme's perf_analyzer: written by clients/perf_analyzer.py.\n"
        f"export LD_LIBRARY_PATH={shlex.quote(str(home))}"
        '"${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"\n'
        f'exec {shlex.quote(str(binary))} "$@"\n'
    )
    program.chmod(0o755)


if __name__ == "__main__":
    print(locate())
