"""Texts that know which of their characters a client wrote.

A chat template mixes its own words with a client's, and a control token counts only in its own. So
what a client gives is marked character by character, and the marks go along with whatever the
template does to it. Where nobody can tell what became of a text, all of it counts as given: a mark
may be one too many, never one too few.
"""

from __future__ import annotations

import re
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Set, ValuesView
from typing import Any, SupportsIndex, TypeVar

import numpy as np
from jinja2 import Environment, Undefined
from jinja2.nodes import EvalContext
from jinja2.runtime import Context
from numpy.typing import NDArray

OWN = "o"
"""The mark of a character that is the template's own."""

GIVEN = "g"
"""The mark of a character that somebody else wrote."""

_MASK = "\U0010ffff"
"""No character at all, so nothing that a template does depends on it."""


class Traced(str):
    """A text with a mark for each of its characters; in all else it is that text.

    What is made of it by a method is traced too, but for bytes.
    """

    __slots__ = ("_origin",)
    _origin: str

    def __new__(cls, text: str, origin: str) -> Traced:
        """Mark a text; ``origin`` is as long and made of `OWN` and `GIVEN`."""
        traced = super().__new__(cls, text)
        traced._origin = origin
        return traced

    def __str__(self) -> str:
        """The text itself: Jinja asks for it wherever it writes one."""
        return self

    def __getitem__(self, place: SupportsIndex | slice) -> Traced:
        return Traced(str.__getitem__(self, place), self._origin[place])

    def __iter__(self) -> Iterator[Traced]:
        return map(Traced, str.__iter__(self), self._origin)

    def __add__(self, other: str) -> Traced:
        if not isinstance(other, str):
            return NotImplemented
        return Traced(str.__add__(self, other), self._origin + origin_of(other))

    def __radd__(self, other: str) -> Traced:
        return Traced(str.__add__(other, self), origin_of(other) + self._origin)

    def __mul__(self, times: SupportsIndex) -> Traced:
        return Traced(str.__mul__(self, times), self._origin * times)

    __rmul__ = __mul__

    def lstrip(self, chars: str | None = None) -> Traced:
        return self[len(self) - len(str.lstrip(self, chars)) :]

    def rstrip(self, chars: str | None = None) -> Traced:
        return self[: len(str.rstrip(self, chars))]

    def strip(self, chars: str | None = None) -> Traced:
        return self.lstrip(chars).rstrip(chars)

    def removeprefix(self, prefix: str) -> Traced:
        return self[len(self) - len(str.removeprefix(self, prefix)) :]

    def removesuffix(self, suffix: str) -> Traced:
        return self[: len(str.removesuffix(self, suffix))]

    def partition(self, sep: str) -> tuple[Traced, Traced, Traced]:
        first, second, third = self._cut(map(len, str.partition(self, sep)))
        return first, second, third

    def rpartition(self, sep: str) -> tuple[Traced, Traced, Traced]:
        first, second, third = self._cut(map(len, str.rpartition(self, sep)))
        return first, second, third

    def split(  # type: ignore[override]
        self, sep: str | None = None, maxsplit: SupportsIndex = -1
    ) -> list[Traced]:
        return self._find(str.split(self, sep, maxsplit), sep)

    def rsplit(  # type: ignore[override]
        self, sep: str | None = None, maxsplit: SupportsIndex = -1
    ) -> list[Traced]:
        return self._find(str.rsplit(self, sep, maxsplit), sep)

    def splitlines(self, keepends: bool = False) -> list[Traced]:  # type: ignore[override]
        lines = self._cut(map(len, str.splitlines(self, True)))
        if keepends:
            return lines
        without = map(len, str.splitlines(self))
        return [line[:length] for line, length in zip(lines, without, strict=True)]

    def replace(self, old: str, new: str, count: SupportsIndex = -1) -> Traced:
        if not old:  # between all characters
            result = str.replace(self, old, new, count)
            return own(result) if is_own((self, new)) else _given(result)
        return own(new).join(self.split(old, count))

    def join(self, texts: Iterable[str]) -> Traced:
        parts = list(texts)
        text = str.join(self, parts)  # complains of what is no text
        return Traced(text, self._origin.join(map(origin_of, parts)))

    def upper(self) -> Traced:
        return self._recased(str.upper)

    def lower(self) -> Traced:
        return self._recased(str.lower)

    def swapcase(self) -> Traced:
        return self._recased(str.swapcase)

    def casefold(self) -> Traced:
        return self._recased(str.casefold)

    def title(self) -> Traced:
        return self._with_case(str.title(self))

    def capitalize(self) -> Traced:
        return self._with_case(str.capitalize(self))

    def _recased(self, change: Callable[[str], str]) -> Traced:
        """Each character by itself becomes one or several."""
        sizes = (len(change(each)) for each in str.__iter__(self))
        changed = change(self)
        if len(changed) == len(self):
            return Traced(changed, self._origin)
        return Traced(changed, "".join(map(str.__mul__, self._origin, sizes)))

    def _with_case(self, changed: str) -> Traced:
        """A character becomes one or several, as its neighbours are."""
        if len(changed) == len(self):
            return Traced(changed, self._origin)
        return own(changed) if is_own(self) else _given(changed)

    def _cut(self, lengths: Iterable[int]) -> list[Traced]:
        """Pieces that lie side by side."""
        pieces, start = [], 0
        for length in lengths:
            pieces.append(self[start : start + length])
            start += length
        return pieces

    def _find(self, texts: list[str], sep: str | None) -> list[Traced]:
        """Pieces that were cut out, with one separator between two, or with any white space."""
        pieces, start = [], 0
        for text in texts:
            if sep is None:
                start = self.find(text, start)
            pieces.append(self[start : start + len(text)])
            start += len(text) + len(sep or "")
        return pieces


FOLLOWED = frozenset(
    name for name, value in vars(Traced).items() if callable(value) and not name.startswith("_")
)
"""The methods whose results are traced character by character."""

_PLAIN = (type(None), bool, int, float, range, slice, Undefined, Context, EvalContext, Environment)
"""Values in which there is no text of a client, or none that is written."""

T = TypeVar("T")


def own(text: str) -> Traced:
    """A text that is the template's own, where it isn't traced already."""
    return text if isinstance(text, Traced) else Traced(text, OWN * len(text))


def given(value: T) -> T:
    """The same value, with every text in it marked as given."""
    marked: T = _with_texts(value, _given)
    return marked


def origin_of(text: str) -> str:
    """The marks of a text; one that isn't traced is the template's own."""
    return text._origin if isinstance(text, Traced) else OWN * len(text)


def is_own(value: Any) -> bool:
    """Whether no character anywhere in a value was given, as far as one can look into it."""
    if isinstance(value, str):
        return GIVEN not in origin_of(value)
    if isinstance(value, dict):
        return all(is_own(each) for item in value.items() for each in item)
    if isinstance(value, (list, tuple)):
        return all(map(is_own, value))
    return isinstance(value, _PLAIN)


def concatenate(texts: Iterable[str]) -> Traced:
    """The texts one after another."""
    return own("").join(texts)


def written(value: Any) -> Any:
    """A value as Jinja writes it into the text: a list or another object as Python shows it."""
    if isinstance(value, (str, *_PLAIN)):
        return value
    return follow(str, value)


def follow(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """What a function makes of its arguments, with marks where given characters went.

    It is called with the texts, and once more with every given character masked: where that shows
    the same result but for the masks, they tell where the characters went. Where it doesn't, the
    whole result counts as given.
    """
    call = tuple(map(_settled, args)), {name: _settled(each) for name, each in options.items()}

    def result_of(change: Callable[[str], str]) -> Any:
        args, options = _with_texts(call, change)
        return function(*args, **options)

    if is_own(call):
        return function(*call[0], **call[1])
    result = result_of(_untraced)
    if not isinstance(result, str) or not _is_seen_through(call):
        return given(result)
    try:
        masked = result_of(_masked)
    except Exception:  # it minds what the texts are
        masked = ""
    if not isinstance(masked, str) or len(masked) != len(result):
        return given(result)
    characters, masks = _code_points(result), _code_points(masked)
    kept = (characters == masks) & (masks != ord(_MASK))
    origin = np.where(kept, ord(OWN), ord(GIVEN)).astype(np.uint8).tobytes().decode()
    return Traced(result, origin)


def _settled(value: Any) -> Any:
    """What can be gone through only once, or not be looked into, as a list."""
    if isinstance(value, (Iterator, KeysView, ItemsView, ValuesView, Set)):
        return list(value)
    return value


def _is_seen_through(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_seen_through(each) for item in value.items() for each in item)
    if isinstance(value, (list, tuple)):
        return all(map(_is_seen_through, value))
    return isinstance(value, (str, *_PLAIN))


def _with_texts(value: Any, change: Callable[[str], str]) -> Any:
    """A copy of a value in which every text is changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {_with_texts(key, change): _with_texts(each, change) for key, each in value.items()}
    if isinstance(value, list):
        return [_with_texts(each, change) for each in value]
    if isinstance(value, tuple):
        return tuple(_with_texts(each, change) for each in value)
    return value


def _given(text: str) -> Traced:
    return Traced(text, GIVEN * len(text))


def _untraced(text: str) -> str:
    return str.__str__(text)


def _masked(text: str) -> str:
    runs = re.finditer(f"{OWN}+|{GIVEN}+", origin_of(text))
    return "".join(
        str.__getitem__(text, slice(*run.span())) if run[0][0] == OWN else _MASK * len(run[0])
        for run in runs
    )


def _code_points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
