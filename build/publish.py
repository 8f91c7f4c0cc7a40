"""Putting a finished folder in the place of another in one step.

A build writes beside its destination and then trades places with it, so a reader finds the former
folder or the new one, whole, whenever the build is interrupted. Files of the destination that are
not the build's own, such as Triton's ``model.py``, stay.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from build.build_errors import BuildError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@contextmanager
def staged(destination: Path, own_files: Collection[str], last: str) -> Iterator[Path]:
    """Yield an empty folder that becomes ``destination`` when the block ends without an error.

    Args:
        destination: The folder to create or replace.
        own_files: Patterns of the names that are the build's: files of a former build that this
            one does not write disappear.
        last: The file without which a reader takes the folder for empty. Where the file system
            cannot exchange two folders (an overlay, say), files are moved one at a time, and this
            one goes first and comes last.

    Raises:
        BuildError: The destination is not a plain folder, or another build is writing to it.
    """
    destination = destination.resolve()
    _check(destination)
    destination.parent.mkdir(parents=True, exist_ok=True)
    staging = destination.parent / f".{destination.name}.building"
    with _lock(destination):
        shutil.rmtree(staging, ignore_errors=True)  # left by a build that was killed
        staging.mkdir()
        try:
            yield staging
            _publish(staging, destination, own_files, last)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _check(destination: Path) -> None:
    if not destination.exists():
        return
    if not destination.is_dir():
        raise BuildError(f"{destination} is not a folder")
    for entry in destination.iterdir():
        if entry.is_dir() and entry.name != "__pycache__":
            raise BuildError(f"{destination} is no engine folder: it holds the folder {entry.name}")


@contextmanager
def _lock(destination: Path) -> Iterator[None]:
    folder = os.open(destination.parent, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BuildError(f"another build is at work in {destination.parent}") from None
        yield
    finally:
        os.close(folder)


def _publish(staging: Path, destination: Path, own_files: Collection[str], last: str) -> None:
    if not destination.exists():
        staging.rename(destination)
        return
    shutil.copymode(destination, staging)
    for entry in destination.iterdir():
        if not _is_own(entry, own_files) and entry.name != "__pycache__":
            shutil.copy2(entry, staging / entry.name, follow_symlinks=False)
    try:
        _exchange(staging, destination)
    except OSError:
        _move_files(staging, destination, own_files, last)


def _exchange(one: Path, other: Path) -> None:
    """Swap two folders in one step (Linux's ``renameat2``).

    Raises:
        OSError: The operating system or the file system cannot.
    """
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        raise OSError("the C library has no renameat2") from None
    paths = os.fsencode(one), os.fsencode(other)
    if renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def _move_files(staging: Path, destination: Path, own_files: Collection[str], last: str) -> None:
    (destination / last).unlink(missing_ok=True)
    for entry in destination.iterdir():
        if _is_own(entry, own_files) and not (staging / entry.name).exists():
            entry.unlink()
    for entry in sorted(staging.iterdir(), key=lambda entry: entry.name == last):
        entry.replace(destination / entry.name)


def _is_own(entry: Path, patterns: Collection[str]) -> bool:
    return any(fnmatch(entry.name, pattern) for pattern in patterns)
