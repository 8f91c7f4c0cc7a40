"""A chain's lines for who counts them: those that the key's owner wrote, and each at most once.

Verification tells all that is wrong with a log. Here it is only what says nothing that may be
counted: a line whose MAC isn't right after the line before it, or one that came before what is
counted already. A line behind such a one is good again, so that who changes one takes no other
away. (Lines cut out of another chain of the same log, and put behind the end of this one, are
found by verification alone.)
"""

from __future__ import annotations

import contextlib
from typing import Any

from gateway.audit.chain import BrokenLine, Link, is_sealed, read
from gateway.audit.keys import AuditKeys


class Follower:
    """Goes along a chain, a line at a time.

    Attributes:
        link: The last good line.
    """

    def __init__(self, keys: AuditKeys, writer: str, link: Link) -> None:
        """Go on from a line.

        Args:
            keys: What the chain was written with.
            writer: The chain's name.
            link: The last line that was good.
        """
        self.link = link
        self._keys = keys
        self._writer = writer
        self._before = link.mac
        self._is_another_s = False

    def enter(self, header: bytes, segment: int) -> None:
        """Go on in the middle of a segment.

        Args:
            header: Its first line.
            segment: Its number.
        """
        with contextlib.suppress(BrokenLine):
            self._is_another_s = self._begins_another(read(header)[0], segment)

    def _begins_another(self, header: dict[str, Any], segment: int) -> bool:
        return (header.get("writer"), header.get("segment")) != (self._writer, segment)

    def follow(self, line: bytes, segment: int) -> dict[str, Any]:
        """What the next line says.

        Args:
            line: It.
            segment: The segment that it is in.

        Raises:
            BrokenLine: It is not to be counted; the message says why.
        """
        fields, link = read(line)
        before = {self.link.mac, self._before}
        self._before = link.mac
        if fields.get("event") == "segment":  # it tells itself what was before it
            self._is_another_s = self._begins_another(fields, segment)
            before = {str(fields.get("previous"))}
        if self._is_another_s:
            raise BrokenLine("is of another segment")
        if not any(is_sealed(key, mac, line) for key in self._keys for mac in before):
            raise BrokenLine("was changed, or the line before it was")
        if link.sequence <= self.link.sequence:
            raise BrokenLine(f"is number {link.sequence} and follows number {self.link.sequence}")
        self.link = link
        return fields
