"""What an answer says, piece by piece: text, thinking, and calls of functions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple


class Content(NamedTuple):
    """Text for the one who asked."""

    text: str


class Reasoning(NamedTuple):
    """What the model thought."""

    text: str


class CallBegun(NamedTuple):
    """A call begins.

    Attributes:
        number: Which of the answer's calls, from 0.
        id: What its result will name it by.
        name: The function.
    """

    number: int
    id: str
    name: str


class Arguments(NamedTuple):
    """What follows of a call's arguments, which are a JSON object when the call is whole."""

    number: int
    text: str


Event = Content | Reasoning | CallBegun | Arguments


def joined(events: Iterable[Event]) -> list[Event]:
    """The same events, each as long as it can be."""
    together: list[Event] = []
    for event in events:
        last = together[-1] if together else None
        if isinstance(event, CallBegun):
            together.append(event)
        elif not event.text:
            continue
        elif type(last) is type(event) and _same_call(last, event):
            together[-1] = event._replace(text=last.text + event.text)
        else:
            together.append(event)
    return together


def _same_call(first: Event | None, second: Event) -> bool:
    if isinstance(first, Arguments) and isinstance(second, Arguments):
        return first.number == second.number
    return True


def calls_as_json(events: Iterable[Event]) -> list[dict[str, Any]]:
    """What is told of calls at once, as the contract has it: one entry for each."""
    calls: dict[int, dict[str, Any]] = {}
    for event in events:
        if isinstance(event, CallBegun):
            calls[event.number] = {"index": event.number, "id": event.id, "name": event.name}
        elif isinstance(event, Arguments):
            call = calls.setdefault(event.number, {"index": event.number})
            call["arguments"] = call.get("arguments", "") + event.text
    return [*calls.values()]
