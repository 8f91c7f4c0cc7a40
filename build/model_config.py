"""Readers of the settings of ``config.json``, which name the setting when it is wrong.

A reader takes a setting's name and its value and returns the value checked, in its Python type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeAlias

from build.build_errors import CheckpointError

Reader: TypeAlias = Callable[[str, Any], Any]


def wrong(name: str, value: Any, wanted: str) -> NoReturn:
    """Refuse a setting by name.

    Raises:
        CheckpointError: Always.
    """
    raise CheckpointError(f"config.json says {name} = {value!r}, not {wanted}")


def number(name: str, value: Any) -> float:
    """A positive number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e300:
        wrong(name, value, "a positive number")
    return float(value)


def size(name: str, value: Any) -> int:
    """A positive whole number."""
    if (found := number(name, value)) != int(found):
        wrong(name, value, "a whole number")
    return int(found)


def count(name: str, value: Any) -> int:
    """A whole number, 0 or more."""
    return 0 if value == 0 and not isinstance(value, bool) else size(name, value)


def flag(name: str, value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        wrong(name, value, "true or false")
    return value


def text(name: str, value: Any) -> str:
    """A word."""
    if not isinstance(value, str):
        wrong(name, value, "a text")
    return value


def tokens(name: str, value: Any) -> tuple[int, ...]:
    """One token or a list of them, or none."""
    found = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(token) is int for token in found):
        wrong(name, value, "a token or a list of tokens")
    return tuple(found)


def settings(name: str, value: Any) -> dict[str, Any]:
    """Settings of their own, or none."""
    if value is not None and not isinstance(value, dict):
        wrong(name, value, "an object")
    return dict(value or {})


def listed(read: Reader) -> Reader:
    """A list of what a reader reads."""

    def read_all(name: str, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            wrong(name, value, "a list")
        return tuple(read(name, each) for each in value)

    return read_all


def optional(read: Reader) -> Reader:
    """What a reader reads, or None."""
    return lambda name, value: None if value is None else read(name, value)


def required(values: Mapping[str, Any], name: str, read: Reader) -> Any:
    """A setting that has to be there, such as one of the rotary embedding's.

    Raises:
        CheckpointError: It is missing or wrong.
    """
    if values.get(name) is None:
        raise CheckpointError(f"config.json has no {name}")
    return read(name, values[name])
