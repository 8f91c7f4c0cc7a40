"""Compiling the kernels where they are used: for a processor that no library was built for, and for
whoever changes them.

What is compiled is kept in the user's cache, with its digest. It is taken from there only if nobody
but this user can have written it.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

from contract.errors import EngineError
from python_backend.engine.kernels.kernel_libraries import FLAGS, SOURCES, digest_of
from python_backend.engine.kernels.kernel_loading import load_bytes

# Vectors are passed to inlined functions only: how a call would pass them is of no matter.
GCC_FLAGS = (*FLAGS, "-Wno-psabi")


def load_compiled(march: str = "-march=native", more_flags: str = "") -> ctypes.CDLL | None:
    """The kernels, compiled here; None without a compiler.

    Args:
        march: The flags that name the instruction set.
        more_flags: Further flags, such as ``-fsanitize=address``. The library is then loaded from
            its file, where debuggers and sanitizers find its symbols.

    Raises:
        EngineError: There is a compiler, and it fails.
    """
    flags = (*GCC_FLAGS, *march.split(), *shlex.split(more_flags))
    path = _cache() / f"kernels-{digest_of(flags, _processor())[:16]}.so"
    content = _read(path)
    if content is None:
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            return None
        content = _compile(compiler, flags)
        _keep(path, content)
    return ctypes.CDLL(str(path)) if more_flags else load_bytes(path, content)


def _compile(compiler: str, flags: tuple[str, ...]) -> bytes:
    sources = [str(source) for source in sorted(SOURCES.glob("*.c"))]
    with tempfile.TemporaryDirectory(prefix="trireme-") as folder:
        library = Path(folder, "kernels.so")
        # Libraries come after what needs them.
        command = [compiler, "-o", str(library), *sources, *flags]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise EngineError(f"{compiler} can't compile {SOURCES}: {done.stderr.strip()}")
        return library.read_bytes()


def _cache() -> Path:
    try:
        cache = Path("~/.cache").expanduser()
    except RuntimeError:  # a user that is a number and no more, as in some containers
        cache = Path(os.devnull)  # where nothing can be kept
    return Path(os.environ.get("XDG_CACHE_HOME") or cache) / "trireme"


def _read(library: Path) -> bytes | None:
    """A library from the cache, if it is there and whole."""
    content, digest = _read_ours(library), _read_ours(_digest_path(library))
    if content is None or digest != hashlib.sha256(content).hexdigest().encode():
        return None
    return content


def _read_ours(path: Path) -> bytes | None:
    """A file's content, unless another user owns it or may write to it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        others = stat.S_IWGRP | stat.S_IWOTH
        if (
            not stat.S_ISREG(found.st_mode)
            or found.st_uid != os.geteuid()
            or found.st_mode & others
        ):
            return None
        return file.read()


def _keep(library: Path, content: bytes) -> None:
    """Write a library to the cache; where that can't be, it is compiled again the next time."""
    try:
        library.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(library, content)
        _write(_digest_path(library), hashlib.sha256(content).hexdigest().encode())
    except OSError:
        return


def _write(path: Path, content: bytes) -> None:
    """Write a file in one step, for this user alone."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as unfinished:
        unfinished.write(content)
    Path(unfinished.name).replace(path)


def _digest_path(library: Path) -> Path:
    return library.with_suffix(".sha256")


def _processor() -> str:
    """What decides what ``-march=native`` means."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    kept = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    return "\n".join(sorted(kept))
