"""Whether the calls of functions in a conversation and their results go together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_LONGEST_SHOWN = 64


class HistoryError(ValueError):
    """They don't.

    Attributes:
        place: Where, from the list of messages on, such as ``3.tool_call_id``.
        reason: What is wrong there.
    """

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(f"{place}: {reason}")
        self.place = place
        self.reason = reason


def check_history(messages: Sequence[Mapping[str, Any]]) -> None:
    """Look whether each result belongs to a call, and each call has its result.

    The results of a message's calls follow it at once, in any order. A call without an id can have
    any result without one: older templates know none.

    Raises:
        HistoryError: The first place where it is otherwise.
    """
    open_ids: dict[str, str] = {}
    anonymous = 0
    for number, message in enumerate(messages):
        if message.get("role") == "tool":
            name = message.get("tool_call_id")
            if name is None and anonymous:
                continue
            if name not in open_ids:
                shown = "missing" if name is None else f"{str(name)[:_LONGEST_SHOWN]!r}"
                raise HistoryError(
                    f"{number}.tool_call_id",
                    f"it is {shown}; it must be the id of a call before it that has no result yet",
                )
            del open_ids[name]
            continue
        _all_answered(open_ids)
        anonymous = 0
        for place, call in enumerate(message.get("tool_calls") or ()):
            where = f"{number}.tool_calls.{place}.id"
            name = call.get("id")
            if name is None:
                anonymous += 1
            elif name in open_ids:
                raise HistoryError(where, "another call of the message has the same id")
            else:
                open_ids[name] = where
    _all_answered(open_ids)


def _all_answered(open_ids: Mapping[str, str]) -> None:
    if open_ids:
        name, where = next(iter(open_ids.items()))
        shown = name[:_LONGEST_SHOWN]
        raise HistoryError(where, f"the call {shown!r} has no result in the messages behind it")
