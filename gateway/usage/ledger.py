"""Sums the audit log up in the database, each line exactly once.

How far a chain has been counted is kept in the same transaction as the sums, so a crash anywhere
repeats nothing and leaves nothing out. Any process may count any chain: also those of processes
that are gone.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from sqlalchemy import Connection, Engine, case, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from contract.codes import RequestErrorCode
from gateway.audit.audit_segments import segment_path, segments, writers
from gateway.audit.chain import START, BrokenLine, Link
from gateway.audit.following import Follower
from gateway.audit.keys import AuditKeys
from gateway.audit.tail import day_of
from gateway.database import USAGE_COUNTS, USAGE_TOKENS, usage, usage_cursors
from gateway.gateway_errors import LimitsUnavailable
from gateway.limits.account import Account, Period
from gateway.order import CLIENT_DEADLINE

_log = logging.getLogger(__name__)
_LINES_A_STEP = 5000
_DIMENSIONS = ("day", "tenant", "application", "key_id", "model")
_FORMERLY = {
    "charged_prompt_tokens": "prompt_tokens",
    "charged_output_tokens": "output_tokens",
}
"""What lines say that were written before these were counted apart."""

_CLIENT_S = frozenset(get_args(RequestErrorCode))
_CLIENT_LEFT = 499
"""What a request ends with whose client went away."""

Sums = dict[tuple[str, ...], list[int]]


@dataclass(frozen=True)
class Cursor:
    """Up to where a chain is counted.

    Attributes:
        segment: The segment to read next.
        position: Where in it, bytes.
        link: The last line that is counted.
    """

    segment: int
    position: int
    link: Link


class Ledger:
    """The sums of one log. Its methods block, but for `run` and `spent`."""

    def __init__(self, engine: Engine, directory: Path, keys: AuditKeys) -> None:
        """Use a database and a log.

        Args:
            engine: The database, migrated.
            directory: The audit log.
            keys: What it is written with: what has no MAC of theirs is not counted.
        """
        self._engine = engine
        self._directory = directory
        self._keys = keys

    def fold(self) -> int:
        """Count what is new; return how many lines that were.

        Raises:
            SQLAlchemyError: The database can't be written. Nothing is counted, or all.
        """
        return sum(self._fold_chain(folder) for folder in writers(self._directory))

    def cursors(self) -> dict[str, Link]:
        """Return the last line counted of each chain, by writer.

        Only of this log's chains: other hosts may keep theirs in the same database.
        """
        instance = self._directory / "instance"
        own = instance.read_text(encoding="ascii").strip() if instance.exists() else ""
        with self._engine.connect() as connection:
            rows = connection.execute(
                select(usage_cursors).where(usage_cursors.c.writer.startswith(f"{own}-"))
            )
            return {row.writer: Link(row.sequence, row.mac) for row in rows}

    async def run(self, interval_s: float) -> None:
        """Count again and again, until cancelled."""
        while True:
            await asyncio.sleep(interval_s)
            try:
                await asyncio.to_thread(self.fold)
            except (SQLAlchemyError, OSError) as error:
                _log.error("usage can't be counted now, and will be later: %s", error)

    async def spent(self, account: Account, period: Period) -> Sequence[tuple[int, int]]:
        """Return the tokens of the day and the month, of an account's tenant and of its key.

        Raises:
            LimitsUnavailable: The database doesn't tell.
        """
        try:
            return await asyncio.to_thread(self._spent, account, period)
        except SQLAlchemyError as error:
            raise LimitsUnavailable("what you have used can't be told now") from error

    def _spent(self, account: Account, period: Period) -> Sequence[tuple[int, int]]:
        tokens = usage.c.charged_prompt_tokens + usage.c.charged_output_tokens
        today = usage.c.day == period.day
        own = usage.c.key_id == account.key_id
        query = select(
            *(
                func.coalesce(func.sum(case((which, tokens), else_=0)), 0)
                for which in (today, usage.c.day != "", today & own, own)
            )
        ).where(usage.c.tenant == account.tenant, usage.c.day.startswith(f"{period.month}-"))
        with self._engine.connect() as connection:
            day, month, key_day, key_month = (int(n) for n in connection.execute(query).one())
        return [(day, month), (key_day, key_month)]

    def _fold_chain(self, folder: Path) -> int:
        counted = 0
        while True:
            cursor = self._cursor(folder)
            following, lines, sums = _step(folder, cursor, self._keys)
            if following == cursor:
                return counted
            with self._engine.begin() as connection:
                if not _advance(connection, folder.name, cursor, following):
                    return counted  # another process counts this chain right now
                _add(connection, sums)
            counted += lines

    def _cursor(self, folder: Path) -> Cursor:
        with self._engine.begin() as connection:
            row = connection.execute(
                select(usage_cursors).where(usage_cursors.c.writer == folder.name)
            ).one_or_none()
        if row is not None:
            return Cursor(row.segment, row.position, Link(row.sequence, row.mac))
        new = Cursor(segments(folder)[0].number, 0, START)
        try:
            with self._engine.begin() as connection:
                values = _values(new)
                connection.execute(insert(usage_cursors).values(writer=folder.name, **values))
        except IntegrityError:
            return self._cursor(folder)
        return new


def _step(folder: Path, cursor: Cursor, keys: AuditKeys) -> tuple[Cursor, int, Sums]:
    """Read on from a cursor; return where that leads, how many lines it is, and their sums."""
    sums: Sums = defaultdict(lambda: [0] * len(USAGE_COUNTS))
    path = segment_path(folder, cursor.segment)
    if not path.exists():
        later = [each.number for each in segments(folder) if each.number > cursor.segment]
        return (replace(cursor, segment=later[0], position=0) if later else cursor), 0, sums
    # Looked at before the file is read: nothing is added to a segment that another one follows.
    closed = any(each.number > cursor.segment for each in segments(folder))
    position, lines = cursor.position, 0
    follower = Follower(keys, folder.name, cursor.link)
    not_counted: list[str] = []
    with path.open("rb") as file:
        if position:
            follower.enter(file.readline(), cursor.segment)
        file.seek(position)
        for line in file:
            if not line.endswith(b"\n") or lines == _LINES_A_STEP:
                break
            try:
                _count(follower.follow(line, cursor.segment), sums)
            except BrokenLine as error:
                not_counted.append(f"after line {follower.link.sequence} one {error}")
            position += len(line)
            lines += 1
        # What the database counts must not be lost by a power cut that comes before the log's sync.
        os.fdatasync(file.fileno())
    if not_counted:  # verification tells of each
        _log.error("%s: %d lines are not counted: %s", path, len(not_counted), not_counted[0])
    if not lines and closed:
        return replace(cursor, segment=cursor.segment + 1, position=0), 0, sums
    return Cursor(cursor.segment, position, follower.link), lines, sums


def _count(fields: dict[str, Any], sums: Sums) -> None:
    """Add what a line says.

    Raises:
        BrokenLine: It is none of ours.
    """
    try:
        _add_to(sums, fields)
    except (LookupError, TypeError, ValueError, ArithmeticError):
        raise BrokenLine("says nothing that can be counted") from None


def _add_to(sums: Sums, fields: dict[str, Any]) -> None:
    event = fields.get("event")
    is_refusal = event == "call" and fields["tenant"] and fields["status"] >= 400
    if event not in ("end", "interrupted") and not is_refusal:
        return
    group = (day_of(fields["time"]), *(fields[name] for name in _DIMENSIONS[1:]))
    counts = sums[group]
    if is_refusal:
        counts[USAGE_COUNTS.index("refused")] += fields["count"]
        return
    if event == "interrupted":
        counts[0] += 1
        counts[2] += 1
        return
    if _is_its_client_s(fields):
        counts[USAGE_COUNTS.index("refused")] += 1
    elif fields.get("code") == CLIENT_DEADLINE:
        counts[0] += 1
        counts[USAGE_COUNTS.index("timed_out")] += 1
    else:
        counts[0] += 1
        counts[1] += fields["status"] >= 500 or fields["finish_reason"] == "error"
    for name in USAGE_TOKENS:
        counts[USAGE_COUNTS.index(name)] += fields.get(name, fields.get(_FORMERLY.get(name, ""), 0))


def _is_its_client_s(end: dict[str, Any]) -> bool:
    """Whether a request ended because it was wrong: a model said so, maybe after another one of its
    prompts had begun to be answered. A client that left is none of these.
    """
    status = end["status"]
    return end.get("code") in _CLIENT_S or (400 <= status < 500 and status != _CLIENT_LEFT)


def _advance(connection: Connection, writer: str, cursor: Cursor, following: Cursor) -> bool:
    """Move a cursor, unless somebody else has."""
    done = connection.execute(
        update(usage_cursors)
        .where(
            usage_cursors.c.writer == writer,
            usage_cursors.c.segment == cursor.segment,
            usage_cursors.c.position == cursor.position,
        )
        .values(**_values(following))
    )
    return done.rowcount == 1


def _values(cursor: Cursor) -> dict[str, Any]:
    return {
        "segment": cursor.segment,
        "position": cursor.position,
        "sequence": cursor.link.sequence,
        "mac": cursor.link.mac,
    }


def _add(connection: Connection, sums: Sums) -> None:
    if not sums:
        return
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(usage)
    statement = statement.on_conflict_do_update(
        index_elements=list(_DIMENSIONS),
        set_={name: usage.c[name] + statement.excluded[name] for name in USAGE_COUNTS},
    )
    # In one order, so that two who add to the same sums wait for each other and don't lock up.
    rows = [
        dict(zip((*_DIMENSIONS, *USAGE_COUNTS), (*key, *counts), strict=True))
        for key, counts in sorted(sums.items())
    ]
    connection.execute(statement, rows)
