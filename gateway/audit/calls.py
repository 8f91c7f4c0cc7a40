"""Requests that no model heard of, on their way into the log: each a line, floods a few lines.

Who is known has a line for each, as long as they don't come without end. Who isn't may send
anything, from anywhere, and must not fill the disk: what is alike is counted, one line for a
second, an address and a route, and where that is too much, for all routes, for a longer while, and
for all addresses.
"""

from __future__ import annotations

import time as clock
from collections.abc import Callable
from dataclasses import replace

from gateway.audit import records
from gateway.audit.records import Fields
from gateway.interfaces import CallRecord

FLUSH_S = 1.0
"""For how long calls are counted in one line."""
_BURST_LINES = 100
_LINES_PER_S = 2.0
"""Lines that each key may have: these at once, and so many a second for ever; all who aren't
known together, likewise."""
_MOST_GROUPS = 64
"""Of those who aren't known; the others of a second are told as one."""
_MOST_OF_AN_ADDRESS = 8
"""Of those: who asks for everything is told as one, so that it hides nobody else's address."""
_OTHERS = "others"


class Calls:
    """Calls that are still to be written."""

    def __init__(
        self, write: Callable[[Fields], bool], now: Callable[[], float] = clock.monotonic
    ) -> None:
        """Have none.

        Args:
            write: Writes a line, or says that it can't be written now.
            now: Seconds.
        """
        self._write = write
        self._now = now
        self._groups: dict[CallRecord, _Group] = {}
        self._budgets: dict[str, _Budget] = {}
        self._forgot_at_s = now()

    @property
    def pending(self) -> bool:
        """Whether some wait to be written."""
        return bool(self._groups)

    def add(self, call: CallRecord) -> None:
        """Take one in; it is written at once where it may have a line of its own."""
        if call.tenant and self._budget(call.key_id).take():
            if self._write(records.call(call, 1, call.time)):
                return
            self._budget(call.key_id).give_back()
        group = _alike(call)
        if not call.tenant and group not in self._groups:
            if self._of(call.address) >= _MOST_OF_AN_ADDRESS:
                group = replace(group, route="", status=0, code="")
            if group not in self._groups and self._is_full():
                group = replace(group, address=_OTHERS, route="")
        counted = self._groups.setdefault(group, _Group(call))
        counted.count += 1
        counted.last_s = call.time

    def flush(self, *, all_of_it: bool = False) -> None:
        """Write what has been counted, as far as there are lines left for it; or all of it."""
        for group, counted in list(self._groups.items()):
            budget = self._budget(group.key_id if group.tenant else "")
            if not all_of_it and not budget.take():
                continue
            first = replace(group, time=counted.first.time, request_id=counted.first.request_id)
            if counted.count == 1:
                first = replace(first, key_id=counted.first.key_id)
            if not self._write(records.call(first, counted.count, counted.last_s)):
                budget.give_back()
                return
            del self._groups[group]

    def _budget(self, key: str) -> _Budget:
        if key not in self._budgets:
            self._forget()
            self._budgets[key] = _Budget(self._now)
        return self._budgets[key]

    def _forget(self) -> None:
        """Keep no budget of keys that ask no more: in the time in which a budget becomes whole."""
        if self._now() - self._forgot_at_s < _BURST_LINES / _LINES_PER_S:
            return
        self._forgot_at_s = self._now()
        for key in [key for key, budget in self._budgets.items() if budget.is_whole]:
            del self._budgets[key]

    def _of(self, address: str) -> int:
        return sum(not group.tenant and group.address == address for group in self._groups)

    def _is_full(self) -> bool:
        return sum(not group.tenant for group in self._groups) >= _MOST_GROUPS


class _Group:
    """Calls that are alike."""

    def __init__(self, first: CallRecord) -> None:
        self.first = first
        self.last_s = first.time
        self.count = 0


class _Budget:
    """Lines that may be written."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._at_s = now()
        self._lines = float(_BURST_LINES)

    @property
    def is_whole(self) -> bool:
        """Whether it is as it was at first."""
        self._refill()
        return self._lines >= _BURST_LINES

    def take(self) -> bool:
        """Whether there was a line left."""
        self._refill()
        if self._lines < 1:
            return False
        self._lines -= 1
        return True

    def give_back(self) -> None:
        """A line was not used."""
        self._lines += 1

    def _refill(self) -> None:
        now = self._now()
        self._lines = min(_BURST_LINES, self._lines + (now - self._at_s) * _LINES_PER_S)
        self._at_s = now


def _alike(call: CallRecord) -> CallRecord:
    """What a call has in common with others like it."""
    group = replace(call, request_id="", time=0.0)
    if not call.tenant:
        # Made-up keys are as many as somebody likes.
        return replace(group, application="", key_id="")
    return replace(group, address="")
