"""The kinds of words that the administrator's commands take."""

from __future__ import annotations

from datetime import date
from typing import Any

import click
from pydantic import TypeAdapter, ValidationError

from gateway.limits.limit import Limits
from gateway.tenants.tenant import Name
from gateway.usage.usage_report import DIMENSIONS


class NameType(click.ParamType[str]):
    """The name of a tenant or an admin."""

    name = "name"

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> str:
        try:
            return TypeAdapter(Name).validate_python(value)
        except ValidationError:
            self.fail(f"{value!r} is no name: up to 64 letters, digits and . _ @ -")


class LimitType(click.ParamType[tuple[str, int | None]]):
    """A limit and its bound, such as ``requests_per_minute=60``; ``none`` is no bound."""

    name = "name=number"

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> tuple[str, int | None]:
        name, _, text = value.partition("=")
        try:
            limit = None if text == "none" else int(text)
            Limits.model_validate({name: limit})
        except (ValueError, ValidationError):
            names = ", ".join(Limits.model_fields)
            self.fail(f"{value!r} is no limit: write NAME=NUMBER or NAME=none, NAME one of {names}")
        return name, limit


class WordsType(click.ParamType[list[str]]):
    """Words with commas between them."""

    name = "words"

    def __init__(self, known: tuple[str, ...] | None = None) -> None:
        self._known = known

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> list[str]:
        words = [word for word in value.split(",") if word] if isinstance(value, str) else value
        for word in words:
            if self._known is not None and word not in self._known:
                self.fail(f"{word!r} is none of {', '.join(self._known)}")
        return list(words)


class DayType(click.ParamType[date]):
    """A day."""

    name = "yyyy-mm-dd"

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> date:
        try:
            return value if isinstance(value, date) else date.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no day: write YYYY-MM-DD")


NAME, LIMIT, WORDS, DAY = NameType(), LimitType(), WordsType(), DayType()
SUMS = WordsType(tuple(DIMENSIONS))
