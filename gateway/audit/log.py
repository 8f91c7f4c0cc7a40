"""The audit log as a process writes it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import secrets
import time as clock
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from clients.aside import aside
from gateway.audit import records
from gateway.audit.audit_errors import AuditError
from gateway.audit.audit_segments import segment_path, segments, try_lock
from gateway.audit.audit_settings import AuditSettings
from gateway.audit.calls import FLUSH_S, Calls
from gateway.audit.chain import BrokenLine, seal
from gateway.audit.file_limit import check_reserve, most_bytes, segment_bytes
from gateway.audit.keys import AuditKeys, create_once
from gateway.audit.records import Fields
from gateway.audit.tail import Tail, day_of, read_tail
from gateway.audit.waiting import done, look, resolve, unavailable
from gateway.audit.writer import LineWriter, Reserve
from gateway.interfaces import AuditRecord, AuditState, CallRecord, Principal, Ticket

_RETRY_S = 0.5
_LOOK_S = 1.0
_LEAVE_S = 0.05
_log = logging.getLogger(__name__)


class FileAuditLog:
    """A chain that this process alone writes.

    The state that an error leaves: `_failure` is set while the disk is full or fails. Requests that
    began before may still end, in the space of the reserve or else in memory; no other begins,
    unless the settings say so. A task tries until all is on disk and the reserve is held again.

    Attributes:
        directory: The folder of the log, with all its chains.
        keys: What it is written with.
    """

    def __init__(
        self, settings: AuditSettings, keys: AuditKeys, folder: Path, lock: int, tail: Tail
    ) -> None:
        """Go on with a chain. Use `open`."""
        self.directory = settings.directory
        self.keys = keys
        self._settings = settings
        self._folder = folder
        self._lock = lock
        self._reserve = Reserve(folder / "reserve", settings.reserve_bytes)
        self._link = tail.link
        self._segment = tail.segment
        self._open: dict[int, Fields] = {}
        self._file = self._resume(tail)
        self._waiters: list[asyncio.Future[None]] = []
        self._syncing: asyncio.Task[None] | None = None
        self._recovering: asyncio.Task[None] | None = None
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="audit")
        self._failure: str | None = None
        self._failed_at = 0.0
        self._lost = 0
        self._calls = Calls(self._write_call)
        self._flushing: asyncio.TimerHandle | None = None
        self._damage: str | None = None
        self._was_damaged = False
        self._kept: list[Fields] = []

    @property
    def state(self) -> AuditState:
        """How it is now."""
        if self._failure is not None:
            return "unavailable"
        return "damaged" if self._was_damaged else "written"

    async def watch(self) -> None:
        """Look again and again whether the file is as it was written, until cancelled.

        Where it isn't, the log goes on in a new segment as soon as that can be made.
        """
        while True:
            await asyncio.sleep(_LOOK_S)
            if self._failure is None:
                try:
                    self._look()
                except OSError as error:
                    self._fail(error)

    @classmethod
    def open(cls, settings: AuditSettings) -> FileAuditLog:
        """Go on with a chain that nobody writes, or begin one.

        Requests that a killed process left without an end get one that says so.

        Raises:
            AuditError: The log can't be written, or its key can't be read.
        """
        check_reserve(settings)
        keys = AuditKeys.load_or_create(key_path(settings))
        directory = settings.directory
        try:
            directory.mkdir(parents=True, exist_ok=True)
            instance = directory / "instance"
            # Hosts that share a database for usage have logs of their own.
            create_once(instance, secrets.token_hex(4))
            name = instance.read_text(encoding="ascii").strip()
            for number in itertools.count():
                folder = directory / f"{name}-{number}"
                folder.mkdir(exist_ok=True)
                lock = try_lock(folder / "lock")
                if lock is None:
                    continue
                try:
                    return cls(settings, keys, folder, lock, read_tail(folder, keys))
                except BrokenLine as error:
                    _log.error("%s; it is left as it is, and another chain is begun", error)
                    os.close(lock)
        except OSError as error:
            raise AuditError(f"the audit log {directory} can't be written: {error}") from error
        raise AssertionError("there are always more numbers")

    async def check(self) -> None:
        """Return where a request may be taken in.

        Raises:
            AuditUnavailable: The log can't be written now, and nothing is served unaudited.
        """
        if self._failure is not None and self._settings.when_unavailable == "refuse":
            raise unavailable()

    def begin(self, request_id: str, time: float, principal: Principal, model: str) -> Ticket:
        """Write down that a request was taken in.

        Raises:
            AuditUnavailable: It could not be written.
        """
        fields = records.begin(request_id, time, principal, model)
        refuse = self._settings.when_unavailable == "refuse"
        if self._failure is None:
            try:
                self._write(fields)
            except OSError as error:
                self._fail(error)
            else:
                self._open[self._link.sequence] = fields
                return Ticket(self._link.sequence, self._durable())
        if refuse:
            raise unavailable()
        return Ticket(None, done())

    async def append(self, record: AuditRecord, ticket: Ticket) -> None:
        """Write down how a request ended. The record is on disk when this returns.

        Raises:
            AuditUnavailable: It is not on disk. It will be as soon as the disk allows, unless this
                process is killed before.
        """
        end = partial(records.end, self.keys.current, record, ticket.sequence)
        fields = await aside(end, num_bytes=len(record.prompt) + len(record.answer))
        if ticket.sequence is not None:
            del self._open[ticket.sequence]
        if not self._write_end(fields):
            if self._settings.when_unavailable == "serve":
                self._lost += 1
                return
            self._keep(fields)
            raise unavailable()
        await self._durable()

    def call(self, record: CallRecord) -> None:
        """Write down a request that no model heard of; see `Calls`."""
        self._calls.add(record)
        self._flush_later()

    async def change(
        self, actor: str, action: str, subject: str, details: dict[str, Any] | None = None
    ) -> None:
        """Write down what an administrator changed. It is on disk when this returns.

        Raises:
            AuditUnavailable: It could not be written.
        """
        if self._failure is not None:
            raise unavailable()
        try:
            self._write(records.change(actor, action, subject, details or {}))
        except OSError as error:
            self._fail(error)
            raise unavailable() from error
        await self._durable()

    async def close(self) -> None:
        """Have everything on disk and let go of the chain.

        What could not be written until now is given up, with a last try.
        """
        for task in (self._recovering, self._syncing):
            if task is not None:
                if task is self._recovering:
                    task.cancel()
                await asyncio.wait([task])
        if self._flushing is not None:
            self._flushing.cancel()
        try:
            if self._damage is not None:
                self._leave()
            self._file.recover()
            self._tell_lost()
            self._failure = None
            self._calls.flush(all_of_it=True)
            self._file.synced(self._file.sync())
        except OSError as error:
            _log.error("audit records are lost: %s", error)
        self._file.close()
        self._reserve.release()
        self._disk.shutdown()
        os.close(self._lock)

    def _write_call(self, fields: Fields) -> bool:
        """Whether a call is with the operating system; it is on disk with what comes next."""
        if self._failure is not None:
            return False
        try:
            self._write(fields)
        except OSError as error:
            self._fail(error)
            return False
        return True

    def _flush_later(self) -> None:
        if self._calls.pending and self._flushing is None:
            loop = asyncio.get_running_loop()
            self._flushing = loop.call_later(FLUSH_S, self._flush)

    def _flush(self) -> None:
        self._flushing = None
        self._calls.flush()
        self._flush_later()

    def _write(self, fields: Fields) -> None:
        line, link = seal(self.keys.current, self._link, fields)
        if self._file.size + len(line) > most_bytes():
            self._rotate()
            line, link = seal(self.keys.current, self._link, fields)
        self._file.write(line)
        self._link = link

    def _write_end(self, fields: Fields) -> bool:
        """Whether a request's end is with the operating system, if need be in the reserve."""
        if self._damage is not None or not self._file.written:
            return False
        try:
            self._write(fields)
            return True
        except OSError as error:
            self._fail(error)
        if self._reserve.held:
            self._reserve.release()
            with contextlib.suppress(OSError):
                self._write(fields)
                return True
        return False

    def _keep(self, fields: Fields) -> None:
        if self._damage is not None:
            self._kept.append(fields)
            return
        line, self._link = seal(self.keys.current, self._link, fields)
        self._file.keep(line)

    def _durable(self) -> Awaitable[None]:
        """Return what waits until all that was written is on disk: one sync for all who wait."""
        waiter = asyncio.get_running_loop().create_future()
        waiter.add_done_callback(look)
        self._waiters.append(waiter)
        if self._syncing is None or self._syncing.done():
            self._syncing = asyncio.create_task(self._sync())
        return waiter

    async def _sync(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiters:
            waiters, self._waiters = self._waiters, []
            file = self._file
            try:
                file.synced(await loop.run_in_executor(self._disk, file.sync))
            except OSError as error:
                self._fail(error)
                resolve(waiters, unavailable())
                continue
            resolve(waiters, None)
            if self._failure is None and self._rotation_is_due():
                try:
                    self._rotate()
                except OSError as error:
                    self._fail(error)

    def _look(self) -> None:
        """Look whether the file is as it was written.

        Raises:
            OSError: It isn't, or that can't be found out.
        """
        self._damage = self._file.damage()
        if self._damage is not None:
            self._was_damaged = True
            raise OSError(f"it {self._damage}")

    def _rotation_is_due(self) -> bool:
        return self._file.size >= segment_bytes(self._settings) or _today() != self._day

    def _rotate(self) -> None:
        """Have all of this segment on disk, and begin the next one.

        Raises:
            OSError: There is no room for it, and this segment goes on.
        """
        self._look()  # once it is closed nobody looks at it any more
        self._file.synced(self._file.sync())
        former, self._file = self._file, self._begin_segment(self._segment + 1)
        self._disk.submit(former.close)  # behind a sync of it that may be under way

    def _begin_segment(self, number: int) -> LineWriter:
        """Begin a segment, with a later number where somebody else put a file in the way."""
        number = max([number, *(each.number + 1 for each in segments(self._folder))])
        path = segment_path(self._folder, number)
        key = self.keys.current
        still_open = ({"n": n, **fields} for n, fields in self._open.items())
        line, link = seal(
            key,
            self._link,
            records.header(self._folder.name, number, key, self._link.mac, still_open),
        )
        file = LineWriter(path, new=True)
        try:
            file.write(line)
            file.synced(file.sync())
        except OSError:
            file.close()
            path.unlink()
            raise
        self._link, self._segment, self._day = link, number, _today()
        return file

    def _resume(self, tail: Tail) -> LineWriter:
        """Open the chain's file, and end what a killed process left without an end.

        A process begins a segment of its own where the key is another, or the day, or this one is
        long enough.
        """
        self._open = tail.still_open
        self._day = tail.day
        is_current = tail.key == self.keys.current.fingerprint and tail.day == _today()
        path = segment_path(self._folder, tail.segment)
        if is_current and path.stat().st_size < segment_bytes(self._settings):
            file = LineWriter(path, new=False)
        else:
            file = self._begin_segment(tail.segment + 1)
        left, self._open = self._open, {}
        for fields in (
            records.start(os.getpid(), tail.dropped_bytes),
            *(records.interrupted({**each, "begun": n}) for n, each in left.items()),
        ):
            line, self._link = seal(self.keys.current, self._link, fields)
            file.write(line)
        file.synced(file.sync())
        self._reserve.hold()
        return file

    def _fail(self, error: OSError) -> None:
        if self._failure is None:
            _log.error("the audit log %s can't be written: %s", self._file.path, error)
            self._failed_at = clock.time()
        self._failure = str(error)
        if self._recovering is None or self._recovering.done():
            self._recovering = asyncio.create_task(self._recover())

    def _leave(self) -> None:
        """Go on in a new segment; what is left of a damaged one stays as evidence.

        Raises:
            OSError: There can be none.
        """
        damaged, number, how = self._file, self._segment, self._damage
        self._file = self._begin_segment(number + 1)
        damaged.close()
        self._damage = None
        for fields in (records.damage(number, str(how)), *self._kept):
            self._write(fields)
        self._kept.clear()

    async def _recover(self) -> None:
        while self._failure is not None:
            await asyncio.sleep(_RETRY_S if self._damage is None else _LEAVE_S)
            if self._syncing is not None and not self._syncing.done():
                continue
            try:
                if self._damage is not None:
                    self._leave()
                self._file.recover()
                self._look()  # what is written to a file that is gone is written nowhere
                if not self._reserve.held:
                    self._reserve.hold()
                self._tell_lost()
            except OSError as error:
                self._failure = str(error)
                continue
            _log.warning("the audit log %s is written again", self._file.path)
            self._failure = None

    def _tell_lost(self) -> None:
        """Write down how many requests were served unaudited, if any were, and have it on disk."""
        if self._lost:
            self._write(records.gap(self._lost, self._failed_at))
            self._lost = 0  # the line is the file's now, also where the sync fails
            self._file.synced(self._file.sync())


def key_path(settings: AuditSettings) -> Path:
    """Return where a log's key is."""
    return settings.key_file or settings.directory.with_name("audit.key")


def _today() -> str:
    return day_of(clock.time())
