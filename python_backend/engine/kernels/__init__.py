"""The C kernels, compiled on first use for the processor that they run on.

What is compiled is kept in the user's cache. Where there is no C compiler there are no kernels, and
numpy and ONNX Runtime take their place: right, and slower.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from contract.errors import EngineError
from python_backend.engine.kernels.structures import check_structures

_FOLDER = Path(__file__).parent
# Vectors are passed to inlined functions only: how a call would pass them is of no matter.
_FLAGS = ("-std=gnu11", "-O3", "-shared", "-fPIC", "-pthread", "-Wno-psabi")
_MARCH = "TRIREME_MARCH"
"""The variable that names another instruction set than the processor's own, as GCC calls it."""

KERNEL_CFLAGS = "TRIREME_KERNEL_CFLAGS"
"""The variable that holds further flags to compile with: sanitizers."""


def load_kernels(num_threads: int) -> ctypes.CDLL | None:
    """The compiled kernels, with so many threads or more to compute with; None without a compiler.

    Raises:
        EngineError: There is a compiler, and it fails; the library has other structures than this
            version; or the threads can't start.
    """
    library = compile_kernels()
    if library is None:
        return None
    kernels = _load(library)
    error = kernels.trireme_threads(ctypes.c_int(num_threads))
    if error:
        raise EngineError(f"the engine's threads can't start: {os.strerror(error)}")
    return kernels


@functools.cache
def _load(library: Path) -> ctypes.CDLL:
    kernels = ctypes.CDLL(str(library))
    check_structures(kernels)
    return kernels


def compile_kernels() -> Path | None:
    """The library of all kernels, from the cache where it is there; None without a compiler.

    Raises:
        EngineError: There is a compiler, and it fails.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    sources = sorted(_FOLDER.glob("*.[ch]"))
    further = shlex.split(os.environ.get(KERNEL_CFLAGS, ""))
    flags = (*_FLAGS, f"-march={os.environ.get(_MARCH) or 'native'}", *further)
    key = hashlib.sha256(b"".join(source.read_bytes() for source in sources))
    key.update(" ".join(flags).encode() + _processor())
    name = f"kernels-{key.hexdigest()[:16]}.so"
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trireme"
    if (folder / name).is_file():
        return folder / name
    if compiler is None:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="trireme-"))
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".so", delete=False) as unfinished:
        compiled = [str(source) for source in sources if source.suffix == ".c"]
        command = [compiler, *flags, "-o", unfinished.name, *compiled, "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            Path(unfinished.name).unlink()
            raise EngineError(f"{compiler} can't compile {_FOLDER}: {done.stderr.strip()}")
    return Path(unfinished.name).replace(folder / name)


def _processor() -> bytes:
    """What decides what ``-march=native`` means."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor().encode()
    kept = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    return "\n".join(sorted(kept)).encode()
