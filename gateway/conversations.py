"""Answers that are kept for a while, so that a request can go on with one by its id.

They are kept in this process alone, within bounds: a restart forgets them, another gateway doesn't
know them, and where there is no more room the oldest go.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import orjson
from typing_extensions import Self

from gateway.configuration import KeepingSettings
from gateway.gateway_errors import InvalidRequest, NotKept
from gateway.generation import Chat, Message


class Said(NamedTuple):
    """Messages as JSON, one behind the other with commas between: long ones are never read again.

    Attributes:
        all: All of them.
        beginning: Those up to the user's first.
        has_user: Whether there is one.
    """

    all: bytes = b""
    beginning: bytes = b""
    has_user: bool = False

    @classmethod
    def of(cls, messages: Iterable[Message]) -> Self:
        """Encode messages."""
        encoded: list[bytes] = []
        opening = 0
        for message in messages:
            encoded.append(orjson.dumps(message))
            if not opening and message["role"] == "user":
                opening = len(encoded)
        return cls(b",".join(encoded), b",".join(encoded[: opening or None]), opening > 0)

    def then(self, more: Said) -> Said:
        """These, and some more."""
        if not self.all or not more.all:
            return self if self.all else more
        beginning = self.beginning if self.has_user else b"%b,%b" % (self.all, more.beginning)
        return Said(b"%b,%b" % (self.all, more.all), beginning, self.has_user or more.has_user)

    def chat(self) -> Chat:
        """All of it as what is to be gone on with."""
        return Chat(b"[%b]" % self.all, b"[%b]" % self.beginning)


Lookup = Callable[[str], Message]
"""The part of a message that an item of a kept answer is, by the item's id."""


class Follows(NamedTuple):
    """How a request goes on with answers that are kept.

    Attributes:
        answer_id: The answer that it goes on with; empty begins anew.
        opening: What is said before all that was, such as instructions.
        more: What is said after it; to be looked up where it refers to items of answers.
    """

    answer_id: str
    opening: Said
    more: Said | Callable[[Lookup], Said]


class _Kept(NamedTuple):
    """One answer.

    Attributes:
        said: All messages up to it, and itself.
        items: Its items by their ids, each as the part of a message that it is, in JSON.
        answer: It, as its API wrote it.
        until_s: When it is forgotten, on the clock of `time.monotonic`.
    """

    said: Said
    items: Mapping[str, bytes]
    answer: bytes
    until_s: float

    @property
    def size(self) -> int:
        said = len(self.said.all) + len(self.said.beginning)
        return said + len(self.answer) + sum(map(len, self.items.values()))


class Conversations:
    """The answers of all tenants; nobody finds another's."""

    def __init__(self, settings: KeepingSettings) -> None:
        self._settings = settings
        self._kept: OrderedDict[tuple[str, str], _Kept] = OrderedDict()
        self._items: dict[tuple[str, str], str] = {}
        self._bytes = 0
        self._of_tenants: dict[str, int] = {}

    @property
    def held_bytes(self) -> int:
        """What is kept, in bytes."""
        return self._bytes

    def begin(self, tenant: str, follows: Follows, *, keeps: bool) -> tuple[Chat, Keeper]:
        """All that was said in a conversation, and what keeps the answer to it.

        Raises:
            InvalidRequest: The answer that it goes on with isn't kept.
        """
        before = Said()
        if follows.answer_id:
            kept = self._find(tenant, follows.answer_id)
            if kept is None:
                raise InvalidRequest(
                    f"the response {follows.answer_id[:64]!r} is not kept here, or no longer",
                    param="previous_response_id",
                    code="previous_response_not_found",
                )
            before = kept.said
        more = follows.more
        said = before.then(more if isinstance(more, Said) else more(partial(self._item, tenant)))
        chat = follows.opening.then(said).chat()
        return chat, Keeper(self, tenant, said, keeps and self.keeps)

    def _item(self, tenant: str, item_id: str) -> Message:
        kept = self._find(tenant, self._items.get((tenant, item_id), ""))
        if kept is None:
            raise InvalidRequest(
                f"the item {item_id[:64]!r} is not kept here, or no longer",
                param="input",
                code="previous_response_not_found",
            )
        part: Message = orjson.loads(kept.items[item_id])
        return part

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

    def keep(
        self,
        tenant: str,
        answer_id: str,
        said: Said,
        answer: bytes,
        items: Mapping[str, bytes] = MappingProxyType({}),
    ) -> None:
        """Keep an answer, if there is room for it: none has more than half of what there is."""
        until_s = time.monotonic() + self._settings.keep_s
        kept = _Kept(said, items, answer, until_s)
        most = self._settings.max_bytes
        if kept.size > most // 2:
            return
        key = tenant, answer_id
        self._drop(key)
        self._kept[key] = kept
        self._items.update(((tenant, each), answer_id) for each in items)
        self._count(tenant, kept.size)
        while self._of_tenants.get(tenant, 0) > most // 2:
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
            for each in kept.items:
                del self._items[key[0], each]

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
    _said: Said
    keeps: bool

    def keep(
        self,
        answer_id: str,
        message: Message,
        answer: bytes,
        items: Mapping[str, Message] = MappingProxyType({}),
    ) -> None:
        """Keep it.

        Args:
            answer_id: What it is known by from then on.
            message: It, as a message of the conversation.
            answer: It, as its API wrote it.
            items: Its items by their ids, each as the part of the message that it is.
        """
        if self.keeps:
            said = self._said.then(Said.of([message]))
            encoded = {each: orjson.dumps(part) for each, part in items.items()}
            self._conversations.keep(self._tenant, answer_id, said, answer, encoded)
