"""Loading a library from bytes: what is loaded is what was checked, whatever becomes of a file."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import tempfile
from pathlib import Path

from contract.errors import EngineError

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE

_loaded: dict[str, ctypes.CDLL] = {}


def load_bytes(path: Path, content: bytes) -> ctypes.CDLL:
    """Load a library, once in a process.

    Args:
        path: Where it was read, for whoever reads an error or the process's memory map.
        content: The library.

    Raises:
        EngineError: It can't be loaded.
    """
    key = hashlib.sha256(content).hexdigest()
    if key not in _loaded:
        try:
            library = _load_sealed(path.stem, content)
        except OSError:  # some systems run no code from such memory
            library = _load_from_folder(path, content)
        library._name = str(path)
        _loaded[key] = library
    return _loaded[key]


def _load_sealed(name: str, content: bytes) -> ctypes.CDLL:
    """Load from memory that nobody can change any more.

    Its descriptor stays open: the loader knows libraries by their paths, and would take another
    with this one's number for the same.
    """
    descriptor = os.memfd_create(f"trireme-{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
        return ctypes.CDLL(f"/proc/self/fd/{descriptor}")
    except OSError:
        os.close(descriptor)
        raise


def _load_from_folder(path: Path, content: bytes) -> ctypes.CDLL:
    """Load from a new folder that only this user can write to, and remove it."""
    with tempfile.TemporaryDirectory(prefix="trireme-") as folder:
        copy = Path(folder, path.name)
        copy.write_bytes(content)
        try:
            return ctypes.CDLL(str(copy))
        except OSError as error:
            raise EngineError(f"{path} can't be loaded: {error}") from error
