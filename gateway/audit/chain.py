"""Lines of a chain: how one is sealed, taken apart and checked. Pure functions."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.audit.keys import AuditKey

GENESIS = "0" * 64
"""What stands for the MAC before the first line."""

_SEAL = b',"mac":"'
_END = b'"}\n'
_SEAL_LENGTH = len(_SEAL) + 64 + len(_END)


@dataclass(frozen=True)
class Link:
    """The place of a line in its chain.

    Attributes:
        sequence: Its number, from 0.
        mac: Its MAC.
    """

    sequence: int
    mac: str


START = Link(-1, GENESIS)
"""Before the first line."""


class BrokenLine(Exception):  # noqa: N818 - says what was found
    """A line is not what was written; the message says how."""


def seal(key: AuditKey, previous: Link, fields: dict[str, Any]) -> tuple[bytes, Link]:
    """Return the line that follows another, and its place.

    Args:
        key: The chain's key.
        previous: The line before.
        fields: What it says; `n`, its number, is put before and `mac` behind.
    """
    sequence = previous.sequence + 1
    body = orjson.dumps({"n": sequence, **fields})
    mac = key.mac(previous.mac, body)
    return body[:-1] + _SEAL + mac.encode() + _END, Link(sequence, mac)


def read(line: bytes) -> tuple[dict[str, Any], Link]:
    """Take a line apart, unchecked.

    Raises:
        BrokenLine: It is no line of a chain.
    """
    if len(line) <= _SEAL_LENGTH or line[-_SEAL_LENGTH:].find(_SEAL) != 0:
        raise BrokenLine("is not a sealed line")
    try:
        fields = orjson.loads(line)
        return fields, Link(int(fields["n"]), str(fields["mac"]))
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        raise BrokenLine("is not a sealed line") from None


def check(key: AuditKey, previous: Link, line: bytes) -> tuple[dict[str, Any], Link]:
    """Take a line apart and check that it follows another.

    Raises:
        BrokenLine: It was changed, or does not follow.
    """
    fields, link = read(line)
    if link.sequence != previous.sequence + 1:
        raise BrokenLine(f"is number {link.sequence} and follows number {previous.sequence}")
    if not is_sealed(key, previous.mac, line):
        raise BrokenLine("was changed, or the line before it was")
    return fields, link


def is_sealed(key: AuditKey, previous_mac: str, line: bytes) -> bool:
    """Whether a line that can be read has the MAC that a key gives it after another's."""
    body, mac = line[:-_SEAL_LENGTH] + b"}", line[-_SEAL_LENGTH + len(_SEAL) : -len(_END)]
    return hmac.compare_digest(key.mac(previous_mac, body).encode(), mac)
