"""A file that lines are added to: written at once, on disk in groups, whole or not at all.

This is the part that touches the disk. What it is given is with the operating system when `write`
returns, so a killed process can't lose it; `sync` has it on disk, so a power cut can't either.
Where the disk fails, what was not on disk yet is kept in memory and written again by `recover`.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from gateway.audit.audit_segments import sync_folder


class LineWriter:
    """One open file and the lines that are not on disk yet."""

    def __init__(self, path: Path, *, new: bool) -> None:
        """Open a file at its end.

        Args:
            path: The file.
            new: Whether to make it; else it is there.

        Raises:
            OSError: It can't be opened.
        """
        self.path = path
        flags = os.O_WRONLY | (os.O_CREAT | os.O_EXCL if new else 0)
        self._descriptor = os.open(path, flags, 0o640)
        try:
            if new:
                sync_folder(path.parent)
            self._synced = os.lseek(self._descriptor, 0, os.SEEK_END)
        except OSError:
            os.close(self._descriptor)
            raise
        self._pending = bytearray()  # what follows the first `_synced` bytes
        self._written = 0  # how much of it the operating system has

    @property
    def size(self) -> int:
        """Bytes of the file, those still to be written included."""
        return self._synced + len(self._pending)

    @property
    def written(self) -> bool:
        """Whether the operating system has all of it."""
        return self._written == len(self._pending)

    def damage(self) -> str | None:
        """What somebody else did to the file: None where it is as it was written.

        What was changed in its place, and has the same length, only its MACs tell.

        Raises:
            OSError: That can't be found out.
        """
        held = os.fstat(self._descriptor)
        try:
            there = self.path.stat()
        except FileNotFoundError:
            return "was deleted"
        if (held.st_dev, held.st_ino) != (there.st_dev, there.st_ino):
            return "was replaced by another"
        expected = self._synced + self._written
        if held.st_size != expected:
            return f"has {held.st_size} bytes, and {expected} were written"
        return None

    def keep(self, line: bytes) -> None:
        """Take a line in that can't be written now, for `recover`."""
        self._pending += line

    def write(self, line: bytes) -> None:
        """Hand a line to the operating system.

        Raises:
            OSError: It didn't take it, and the file is as before.
        """
        self._put(line, self._synced + self._written)
        self._pending += line
        self._written += len(line)

    def sync(self) -> int:
        """Have on disk what was written, and return how much of it that is, for `synced`.

        Safe in a thread while others write. After an error nothing is known of what was written
        since the last sync: `recover` writes all of it again.

        Raises:
            OSError: The disk failed.
        """
        length = self._written
        os.fdatasync(self._descriptor)
        return length

    def synced(self, length: int) -> None:
        """Take note that so many bytes are on disk now."""
        self._synced += length
        self._written -= length
        del self._pending[:length]

    def recover(self) -> None:
        """Write once more what is not on disk, and have it there.

        Raises:
            OSError: The disk still fails; nothing is lost.
        """
        self._written = 0
        self._put(bytes(self._pending), self._synced)
        self._written = len(self._pending)
        self.synced(self.sync())

    def close(self) -> None:
        """Close the file as it is."""
        os.close(self._descriptor)

    def _put(self, data: bytes, position: int) -> None:
        try:
            written = 0
            while written < len(data):
                written += os.pwrite(self._descriptor, data[written:], position + written)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, position)
            raise


class Reserve:
    """Disk space kept aside, to be let go of when the disk is full."""

    def __init__(self, path: Path, size: int) -> None:
        """Keep nothing yet.

        Args:
            path: The file that takes the space.
            size: How much, bytes.
        """
        self._path = path
        self._size = size
        self.held = False

    def hold(self) -> None:
        """Take the space.

        Raises:
            OSError: The disk has not so much.
        """
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o640)
        try:
            os.posix_fallocate(descriptor, 0, self._size)
            self.held = True
        finally:
            os.close(descriptor)
            if not self.held:
                self.release()

    def release(self) -> None:
        """Let it go."""
        self.held = False
        with contextlib.suppress(OSError):
            self._path.unlink()
