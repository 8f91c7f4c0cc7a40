"""Typed settings: the base of every settings model, and errors that a person can act on.

A name that nobody knows is an error that names the nearest known one, wherever it stands: in a
list, a mapping or a choice between several kinds. All that is wrong is told at once.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from contract.errors import TriremeError


class SettingsError(TriremeError, ValueError):
    """A setting is unknown, of the wrong type or out of bounds. The message names it."""


class Settings(BaseModel):
    """Base of all settings: nothing unknown, nothing changed after it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


S = TypeVar("S", bound=BaseModel)

_LONGEST_SHOWN = 80
"""Characters of a wrong value that its error repeats."""


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


def parse(kind: type[S], values: Any, source: str = "", *, group: str = "") -> S:
    """Check settings.

    Args:
        kind: What they are.
        values: As read from a file or a command line.
        source: Where they come from, for the error.
        group: What they belong to; the error's names begin with it.

    Raises:
        SettingsError: One is unknown, of the wrong type or out of bounds.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        reasons = explain(kind, error, group)
        raise SettingsError(f"{source}: {reasons}" if source else reasons) from None


def from_assignments(kind: type[S], assignments: Iterable[str]) -> S:
    """Settings from words such as ``postprocessing.skip_special_tokens=false``.

    Args:
        kind: What they are.
        assignments: ``name=value``; a dot goes into settings that are inside, a value is JSON or,
            where it is not, a string.

    Raises:
        SettingsError: One is not of that form, unknown or out of bounds.
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        *parents, name = path.split(".")
        if not equals or not all([*parents, name]):
            raise SettingsError(f"{assignment!r} is not a setting; write name=value")
        inner = values
        for parent in parents:
            inner = inner.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise SettingsError(f"{path} is not a setting: {parent} is a value")
        inner[name] = json_or_text(text)
    return parse(kind, values)


def json_or_text(text: str) -> Any:
    """What a word says: JSON, or else itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def explain(kind: type[BaseModel], error: ValidationError, group: str = "") -> str:
    """What is wrong with settings, in words; see `parse`."""
    errors = error.errors()
    # A list whose items are wrong also counts as too short: say what is wrong inside.
    inner = [e for e in errors if not any(_within(other["loc"], e["loc"]) for other in errors)]
    return "; ".join(_explain(kind, each, group) for each in inner)


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that a wrong one was most likely meant to be.

    Of a long one the beginning is looked at: the time that it takes grows with the square.
    """
    return difflib.get_close_matches(name[:_LONGEST_SHOWN], list(known), n=1, cutoff=0)[0]


def _within(path: tuple[Any, ...], outer: tuple[Any, ...]) -> bool:
    return len(path) > len(outer) and path[: len(outer)] == outer


def _explain(kind: type[BaseModel], error: Any, group: str) -> str:
    path = error["loc"]
    name = ".".join(filter(None, [group, *(str(part) for part in path)])) or "the file"
    if error["type"] == "missing":
        return f"{name} is missing"
    if error["type"] == "extra_forbidden":
        near = nearest(str(path[-1]), _names(kind, path[:-1]))
        return f"{name} is not a setting; the nearest is {near}"
    reason = error["msg"].removeprefix("Value error, ")
    value = repr(error["input"])
    # What a whole group of settings has wrong says itself which of them.
    hidden = error["type"] == "value_error" or not path or len(value) > _LONGEST_SHOWN
    shown = "" if hidden else f" is {value}"
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
