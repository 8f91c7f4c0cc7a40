"""Answers that are kept for a while, so that a request can go on with one by its id.

They are kept in this process alone, within bounds: a restart forgets them, another gateway doesn't
know them, and where there is no more room the oldest go.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import orjson

from gateway.configuration import KeepingSettings
from gateway.gateway_errors import InvalidRequest, NotKept
from gateway.generation import Message


class Follows(NamedTuple):
    """How a request goes on with an answer that is kept.

    Attributes:
        answer_id: The answer's id; empty begins anew.
        opening: What is said before all that was, such as instructions.
        more: What is said after it.
    """

    answer_id: str
    opening: tuple[Message, ...]
    more: tuple[Message, ...]


class _Kept(NamedTuple):
    """One answer.

    Attributes:
        said: All messages up to it, and itself, as a list in JSON.
        answer: It, as its API wrote it.
        until_s: When it is forgotten, on the clock of `time.monotonic`.
    """

    said: bytes
    answer: bytes
    until_s: float

    @property
    def size(self) -> int:
        return len(self.said) + len(self.answer)


class Conversations:
    """The answers of all tenants; nobody finds another's."""

    def __init__(self, settings: KeepingSettings) -> None:
        self._settings = settings
        self._kept: OrderedDict[tuple[str, str], _Kept] = OrderedDict()
        self._bytes = 0
        self._of_tenants: dict[str, int] = {}

    @property
    def held_bytes(self) -> int:
        """What is kept, in bytes."""
        return self._bytes

    def begin(self, tenant: str, follows: Follows, *, keeps: bool) -> tuple[list[Message], Keeper]:
        """All that was said in a conversation, and what keeps the answer to it.

        Raises:
            InvalidRequest: The answer that it goes on with isn't kept.
        """
        before: list[Message] = []
        if follows.answer_id:
            kept = self._find(tenant, follows.answer_id)
            if kept is None:
                raise InvalidRequest(
                    f"the response {follows.answer_id[:64]!r} is not kept here, or no longer",
                    param="previous_response_id",
                    code="previous_response_not_found",
                )
            before = orjson.loads(kept.said)
        said = [*before, *follows.more]
        return [*follows.opening, *said], Keeper(self, tenant, said, keeps and self.keeps)

    @property
    def keeps(self) -> bool:
        """Whether anything is kept at all."""
        return self._settings.max_bytes > 0

    def find(self, tenant: str, answer_id: str) -> bytes:
        """An answer, as its API wrote it.

        Raises:
            NotKept: It isn't there.
        """
        kept = self._find(tenant, answer_id)
        if kept is None:
            raise NotKept(f"the response {answer_id[:64]!r} is not kept here, or no longer")
        return kept.answer

    def forget(self, tenant: str, answer_id: str) -> None:
        """Keep an answer no longer.

        Raises:
            NotKept: It isn't there.
        """
        self.find(tenant, answer_id)
        self._drop((tenant, answer_id))

    def keep(self, tenant: str, answer_id: str, said: Sequence[Message], answer: bytes) -> None:
        """Keep an answer, if there is room for it: none has more than half of what there is."""
        until_s = time.monotonic() + self._settings.keep_s
        kept = _Kept(orjson.dumps(said), answer, until_s)
        most = self._settings.max_bytes
        if kept.size > most // 2:
            return
        key = tenant, answer_id
        self._drop(key)
        self._kept[key] = kept
        self._count(tenant, kept.size)
        while self._of_tenants[tenant] > most // 2:
            self._drop(next(each for each in self._kept if each[0] == tenant))
        while self._bytes > most:
            self._drop(next(iter(self._kept)))

    def _find(self, tenant: str, answer_id: str) -> _Kept | None:
        now_s = time.monotonic()
        while self._kept and next(iter(self._kept.values())).until_s < now_s:
            self._drop(next(iter(self._kept)))
        return self._kept.get((tenant, answer_id))

    def _drop(self, key: tuple[str, str]) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._count(key[0], -kept.size)

    def _count(self, tenant: str, size: int) -> None:
        self._bytes += size
        left = self._of_tenants.pop(tenant, 0) + size
        if left:
            self._of_tenants[tenant] = left


@dataclass(frozen=True)
class Keeper:
    """Keeps the answer to one request, or doesn't.

    Attributes:
        keeps: Whether it does.
    """

    _conversations: Conversations
    _tenant: str
    _said: list[Message]
    keeps: bool

    def keep(self, answer_id: str, message: Message, answer: bytes) -> None:
        """Keep it.

        Args:
            answer_id: What it is known by from then on.
            message: It, as a message of the conversation.
            answer: It, as its API wrote it.
        """
        if self.keeps:
            self._conversations.keep(self._tenant, answer_id, [*self._said, message], answer)
