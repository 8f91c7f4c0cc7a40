"""A file of lines on a disk that writes in parts, fails, and comes back."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from gateway.audit.writer import LineWriter, Reserve

FULL = OSError(errno.ENOSPC, "No space left on device")


class Disk:
    """Takes so many bytes more, a few at a time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, most_at_once: int = 3) -> None:
        self.room = 10**9
        self.most_at_once = most_at_once
        self._pwrite = os.pwrite
        monkeypatch.setattr(os, "pwrite", self.pwrite)

    def pwrite(self, descriptor: int, data: bytes, position: int) -> int:
        if not self.room:
            raise FULL
        written = self._pwrite(descriptor, data[: min(self.room, self.most_at_once)], position)
        self.room -= written
        return written


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lines"


def test_lines_are_written_whole_though_the_system_takes_them_in_parts(path, disk):
    writer = LineWriter(path, new=True)
    for line in (b"one line\n", b"another, longer line\n"):
        writer.write(line)
        assert writer.written
    assert path.read_bytes() == b"one line\nanother, longer line\n"
    assert writer.size == 30
    writer.synced(writer.sync())
    writer.write(b"third\n")
    writer.close()
    assert path.read_bytes() == b"one line\nanother, longer line\nthird\n"


def test_a_file_that_is_there_is_gone_on_with_and_a_new_one_is_new(path):
    path.write_bytes(b"before\n")
    with pytest.raises(FileExistsError):
        LineWriter(path, new=True)
    with pytest.raises(FileNotFoundError):
        LineWriter(path.with_name("none"), new=False)
    writer = LineWriter(path, new=False)
    assert writer.size == 7
    writer.write(b"after\n")
    writer.close()
    assert path.read_bytes() == b"before\nafter\n"


def test_a_line_that_finds_no_room_leaves_nothing(path, disk):
    writer = LineWriter(path, new=True)
    writer.write(b"first\n")
    writer.synced(writer.sync())
    writer.write(b"second\n")
    disk.room = 5
    with pytest.raises(OSError, match="No space"):
        writer.write(b"a long third line\n")
    assert path.read_bytes() == b"first\nsecond\n"
    assert (writer.size, writer.written) == (13, True)
    disk.room = 100
    writer.write(b"4th\n")
    assert path.read_bytes() == b"first\nsecond\n4th\n"
    writer.close()


def test_what_was_kept_is_written_when_there_is_room_in_its_order(path, disk):
    writer = LineWriter(path, new=True)
    writer.write(b"first\n")
    writer.synced(writer.sync())
    writer.write(b"second\n")
    writer.keep(b"third\n")
    writer.keep(b"fourth\n")
    assert (writer.size, writer.written) == (26, False)
    disk.room = 9
    with pytest.raises(OSError, match="No space"):
        writer.recover()
    assert path.read_bytes() == b"first\n"  # the second was not on disk for certain
    assert (writer.size, writer.written) == (26, False)
    disk.room = 100
    writer.recover()
    assert path.read_bytes() == b"first\nsecond\nthird\nfourth\n"
    assert (writer.size, writer.written) == (26, True)
    writer.write(b"5th\n")
    assert path.read_bytes().endswith(b"\nfourth\n5th\n")
    writer.close()


def test_what_comes_while_a_sync_runs_waits_for_the_next(path, monkeypatch):
    writer = LineWriter(path, new=True)
    writer.write(b"first\n")
    fdatasync = os.fdatasync
    synced = []

    def sync(descriptor: int) -> None:
        fdatasync(descriptor)
        synced.append(path.read_bytes())
        if len(synced) == 1:
            writer.write(b"second\n")

    monkeypatch.setattr(os, "fdatasync", sync)
    length = writer.sync()
    assert length == 6
    writer.synced(length)
    assert (writer.size, writer.written) == (13, True)
    writer.recover()  # writes the second anew, where it is
    assert path.read_bytes() == b"first\nsecond\n"
    assert synced == [b"first\n", b"first\nsecond\n"]
    writer.close()


def test_a_sync_that_fails_makes_nothing_certain(path, monkeypatch):
    writer = LineWriter(path, new=True)
    writer.write(b"first\n")

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        for attempt in (writer.sync, writer.recover):
            with pytest.raises(OSError, match="Input/output"):
                attempt()
    path.write_bytes(b"")  # as a failed write-back may leave it
    writer.recover()
    assert path.read_bytes() == b"first\n"
    writer.close()


def test_a_reserve_takes_its_space_and_gives_it_back(path):
    reserve = Reserve(path, 1 << 16)
    assert not reserve.held
    reserve.hold()
    assert reserve.held
    assert path.stat().st_blocks * 512 >= 1 << 16
    reserve.release()
    assert not reserve.held
    assert not path.exists()
    reserve.release()


def test_a_reserve_that_finds_no_room_takes_none(path, monkeypatch):
    def fail(*_: int) -> None:
        raise FULL

    reserve = Reserve(path, 1 << 16)
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", fail)
        with pytest.raises(OSError, match="No space"):
            reserve.hold()
    assert not reserve.held
    assert not path.exists()
    reserve.hold()
    assert reserve.held
