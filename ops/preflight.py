"""What a machine must have before anything is installed, checked by the system's own Python.

`make` runs this file first, so that a person reads one line that says what to do instead of a
failed install's last page. Standard library only, and no syntax newer than Python 3.6: the line for
an old Python has to come from that Python.
"""

import importlib.util
import os
import platform
import shlex
import shutil
import sys
import sysconfig
from pathlib import Path

PYTHONS = ((3, 10), (3, 11), (3, 12))
"""The packaged Triton's Python backend needs numpy 1.26, which has wheels up to Python 3.12."""

GLIBC = (2, 35)
"""What the packaged Triton is linked against (its wheel is manylinux_2_35)."""

WRAPPER_MARK = "# Trireme's tritonserver"
"""The line by which a wrapper that `ops.triton_process` wrote is told from the system's own."""


class PreflightError(Exception):
    """This machine lacks something. The message is one line that says what to do."""


def main() -> int:
    """Check this machine; on a problem print its one line and return 1."""
    try:
        check_python(sys.version_info[0], sys.version_info[1])
        check_venv()
        check_path(Path.cwd())
        if external_tritonserver() is None:
            check_platform(sys.platform, platform.machine(), platform.libc_ver()[1])
            find_libpython()
    except PreflightError as problem:
        print(f"trireme: {problem}", file=sys.stderr)
        return 1
    return 0


def check_python(major: int, minor: int) -> None:
    """Raise unless the packaged Triton's Python backend runs on this Python."""
    if (major, minor) not in PYTHONS:
        raise PreflightError(
            f"Python {major}.{minor} does not run Triton's Python backend: name one of 3.10, 3.11 "
            "or 3.12, e.g. make PYTHON=python3.12 … (`uv python install 3.12` fetches one)"
        )


def check_venv() -> None:
    """Raise unless this Python can make virtual environments (Debian packs that apart)."""
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        raise PreflightError(
            "this Python cannot make a virtual environment: "
            f"apt-get install python{_python_version()}-venv"
        )


def check_path(path: Path) -> None:
    """Raise unless Triton's Python backend can run what lies here: a shell sees it unquoted."""
    if shlex.quote(str(path)) != str(path):
        raise PreflightError(
            f"Triton's Python backend does not run in {path}: it takes no path with spaces or "
            "other characters that mean something to a shell"
        )


def check_platform(system: str, machine: str, glibc: str) -> None:
    """Raise unless the packaged Triton has a binary for this machine.

    `glibc` is a version such as `2.36`, empty where the C library is another.
    """
    instead = "work in NVIDIA's Triton container, whose tritonserver on PATH is used instead"
    if system != "linux" or machine != "x86_64":
        raise PreflightError(
            f"the packaged Triton is for Linux on x86_64, this is {system} on {machine}: {instead}"
        )
    if not glibc or tuple(int(part) for part in glibc.split(".")[:2]) < GLIBC:
        raise PreflightError(
            f"the packaged Triton needs glibc {GLIBC[0]}.{GLIBC[1]} (Debian 12, Ubuntu 22.04 or "
            f"later), this is {'glibc ' + glibc if glibc else 'another C library'}: {instead}"
        )


def find_libpython() -> Path:
    """Return this Python's shared library, which Triton's Python backend is linked against.

    A Python built without one (pyenv's default, say) can do with the distribution's.
    """
    name = f"libpython{_python_version()}.so.1.0"
    folders = (
        sysconfig.get_config_var("LIBDIR"),
        sysconfig.get_config_var("LIBPL"),
        sys.base_prefix + "/lib",
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib64",
        "/usr/lib",
        "/usr/local/lib",
    )
    for folder in folders:
        if folder and Path(folder, name).exists():
            return Path(folder, name).absolute()
    raise PreflightError(
        f"Triton's Python backend needs {name}, which this Python does not bring: "
        f"apt-get install libpython{_python_version()}"
    )


def external_tritonserver() -> "str | None":
    """Return the tritonserver on PATH, as NVIDIA's containers have it; never a wrapper of ours."""
    for folder in os.get_exec_path():
        program = shutil.which("tritonserver", path=folder) if folder else None
        if program and not _is_wrapper(Path(program)):
            return str(Path(program).absolute())
    return None


def _is_wrapper(program: Path) -> bool:
    """Whether `ops.triton_process` wrote this program, in this checkout or another."""
    with program.open("rb") as file:
        return WRAPPER_MARK.encode() in file.read(256)


def _python_version() -> str:
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


if __name__ == "__main__":
    sys.exit(main())
