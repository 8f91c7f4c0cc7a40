"""Whether a GGUF file's header says only what the file can hold.

The library that reads such files believes their counts: it goes on past the end of a file for
as many entries as a damaged or hostile header names, and takes memory for each.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

_VERSIONS = (2, 3)
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of each kind of number, by the format's own number of the kind."""
_STRING = 8
_ARRAY = 9
_MOST_NESTED = 4
_MOST_DIMENSIONS = 4
_MOST_SETTINGS = 1 << 16
_MOST_TENSORS = 1 << 16
_MOST_ENTRIES = 1 << 21
"""Of all lists together: the library makes an object of each, some 500 bytes large."""


class HeaderError(Exception):
    """The header says what can't be; its text says where."""


class _Header:
    """Walks a header, each step of it within the file."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._left = size
        self._entries = 0

    def take(self, form: str) -> int:
        """One number."""
        return int(struct.unpack(f"<{form}", self._bytes(struct.calcsize(f"<{form}")))[0])

    def _bytes(self, count: int) -> bytes:
        self._pass(count)
        return self._file.read(count)

    def _pass(self, count: int) -> None:
        if count > self._left:
            raise HeaderError(f"{count} bytes are named where {self._left} are left")
        self._left -= count

    def text(self) -> None:
        """A text, of any length that the file holds."""
        self._skip(self.take("Q"))

    def _skip(self, count: int) -> None:
        self._pass(count)
        self._file.seek(count, 1)

    def value(self, kind: int, depth: int = 0) -> None:
        """A setting's value."""
        if kind in _SIZES:
            self._skip(_SIZES[kind])
        elif kind == _STRING:
            self.text()
        elif kind == _ARRAY and depth < _MOST_NESTED:
            self._array(depth)
        else:
            raise HeaderError(f"a setting is of the kind {kind}")

    def _array(self, depth: int) -> None:
        kind, count = self.take("I"), self.take("Q")
        self._entries += count
        if self._entries > _MOST_ENTRIES:
            raise HeaderError(f"lists hold more than {_MOST_ENTRIES} entries")
        if kind in _SIZES:
            self._skip(count * _SIZES[kind])
        else:
            for _ in range(count):
                self.value(kind, depth + 1)

    def tensor(self) -> None:
        """What is said of a tensor."""
        self.text()
        dimensions = self.take("I")
        if dimensions > _MOST_DIMENSIONS:
            raise HeaderError(f"a tensor has {dimensions} dimensions")
        self._skip(8 * dimensions + 4 + 8)


def check_header(file: BinaryIO, size: int) -> None:
    """Check the lengths and counts of a header.

    Args:
        file: The file, behind its magic.
        size: Bytes that are left in it there.

    Raises:
        HeaderError: It names more than the file holds, or another version.
    """
    header = _Header(file, size)
    version = header.take("I")
    if version not in _VERSIONS:
        raise HeaderError(
            "it is in the byte order of other processors"
            if version & 0xFFFF == 0
            else f"it is of version {version}"
        )
    tensors, settings = header.take("Q"), header.take("Q")
    if tensors > _MOST_TENSORS or settings > _MOST_SETTINGS:
        raise HeaderError(f"it names {tensors} tensors and {settings} settings")
    for _ in range(settings):
        header.text()
        header.value(header.take("I"))
    for _ in range(tensors):
        header.tensor()
