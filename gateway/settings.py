"""Typed settings: the base of every settings model, and errors that a person can act on.

A name that nobody knows is an error that names the nearest known one, wherever in the file it
stands: in a list, a mapping or a choice between several kinds.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError


class SettingsError(ValueError):
    """A setting is unknown, of the wrong type or out of bounds. The message names it."""


class Settings(BaseModel):
    """Base of all settings: nothing unknown, nothing changed after it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


S = TypeVar("S", bound=BaseModel)


def load(kind: type[S], path: Path) -> S:
    """Read settings from a YAML file.

    Raises:
        SettingsError: The file can't be read, isn't YAML, or a setting in it is wrong.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"{path}: {error}") from None
    return parse(kind, {} if values is None else values, str(path))


def parse(kind: type[S], values: Any, where: str) -> S:
    """Check settings.

    Args:
        kind: What they are.
        values: As read from a file.
        where: Where they come from, for the error.

    Raises:
        SettingsError: One is unknown, of the wrong type or out of bounds. All are told at once.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        errors = error.errors()
        # A list whose items are wrong also counts as too short: say what is wrong inside.
        inner = [e for e in errors if not any(_within(other["loc"], e["loc"]) for other in errors)]
        reasons = "; ".join(_explain(kind, each) for each in inner)
        raise SettingsError(f"{where}: {reasons}") from None


def _within(path: tuple[Any, ...], outer: tuple[Any, ...]) -> bool:
    return len(path) > len(outer) and path[: len(outer)] == outer


def _explain(kind: type[BaseModel], error: Any) -> str:
    path = error["loc"]
    name = ".".join(str(part) for part in path) or "the file"
    if error["type"] == "extra_forbidden":
        known = list(_names(kind, path[:-1]))
        near = difflib.get_close_matches(str(path[-1]), known, n=1, cutoff=0)
        return f"{name} is not a setting; the nearest is {near[0]}"
    reason = error["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(error["input"], Mapping | list | tuple) else f" is {error['input']!r}"
    return f"{name}{shown}: {reason[:1].lower()}{reason[1:]}"


def _names(annotation: Any, path: tuple[Any, ...]) -> Iterator[str]:
    """Names of the fields of all models that a type may have at a path of pydantic's.

    A path holds the names of fields, the keys of mappings, the indices of lists and, for a choice
    between models, the choice.
    """
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if not path:
            yield from annotation.model_fields
        elif str(path[0]) in annotation.model_fields:
            yield from _names(annotation.model_fields[str(path[0])].annotation, path[1:])
        else:  # the choice that pydantic took, between models
            yield from _names(annotation, path[1:])
        return
    origin = get_origin(annotation)
    inside = path if origin in (Union, UnionType) or _is_annotated(annotation) else path[1:]
    for each in get_args(annotation):
        yield from _names(each, inside)


def _is_annotated(annotation: Any) -> bool:
    return hasattr(annotation, "__metadata__")
