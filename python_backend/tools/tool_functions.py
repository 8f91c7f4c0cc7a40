"""The functions that an answer may call, as a request tells of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_NO_ARGUMENTS: dict[str, Any] = {"properties": {}}


class Functions:
    """They, by their names."""

    def __init__(self, types: Mapping[str, Mapping[str, str]]) -> None:
        """Take them.

        Args:
            types: Of each function the types of its parameters, where they have one.
        """
        self._types = types

    @classmethod
    def of(cls, tools: Sequence[Mapping[str, Any]]) -> Functions:
        """Read the tools of a request."""
        return cls({tool["function"]["name"]: _types(tool["function"]) for tool in tools})

    @property
    def types(self) -> Mapping[str, Mapping[str, str]]:
        """Of each function the types of its parameters."""
        return self._types

    def type_of(self, function: str, parameter: str) -> str:
        """What kind of value a parameter takes; ``string`` where nobody says."""
        return self._types.get(function, {}).get(parameter, "string")

    def __contains__(self, name: str) -> bool:
        return name in self._types

    def __iter__(self) -> Iterator[str]:
        return iter(self._types)


def schema_of(function: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a function's arguments: an object, with the properties that it names alone.

    Others would be allowed by some schemas, and are nobody's wish.
    """
    schema = {**(function.get("parameters") or _NO_ARGUMENTS), "type": "object"}
    if "properties" in schema:
        schema.setdefault("additionalProperties", False)
    return schema


def _types(function: Mapping[str, Any]) -> dict[str, str]:
    """The types of a function's parameters that aren't texts."""
    properties = (function.get("parameters") or {}).get("properties")
    if not isinstance(properties, Mapping):
        return {}
    found = {name: _type(schema) for name, schema in properties.items()}
    return {name: kind for name, kind in found.items() if kind != "string"}


def _type(schema: Any) -> str:
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    return kind if isinstance(kind, str) else "any"
