"""``config.json`` with typed look-ups that name the setting when it is missing or wrong."""

from __future__ import annotations

from typing import Any

from build.build_errors import CheckpointError


class ModelConfig:
    """Settings of ``config.json``, or of an object in it.

    Raises:
        CheckpointError: From every look-up: the setting is missing, or of another kind.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings

    def get(self, name: str) -> Any:
        """A setting as it stands there; None where it is missing."""
        return self._settings.get(name)

    def flag(self, name: str) -> bool:
        """Whether a setting is there and true."""
        return bool(self._settings.get(name))

    def number(self, name: str, default: float | None = None) -> float:
        """A positive number."""
        value = self._settings.get(name)
        value = default if value is None else value
        if value is None:
            raise CheckpointError(f"config.json has no {name}")
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise CheckpointError(f"config.json says {name} = {value!r}, not a positive number")
        return float(value)

    def optional_number(self, name: str) -> float | None:
        """A positive number, or None where it is missing."""
        return None if self._settings.get(name) is None else self.number(name)

    def numbers(self, name: str, count: int) -> tuple[float, ...]:
        """A list of so many positive numbers."""
        values = self._settings.get(name)
        if not isinstance(values, list) or len(values) != count:
            raise CheckpointError(f"config.json has no {name} of {count} numbers")
        return tuple(ModelConfig({name: value}).number(name) for value in values)

    def integer(self, name: str, default: int | None = None) -> int:
        """A positive whole number."""
        value = self.number(name, default)
        if value != int(value):
            raise CheckpointError(f"config.json says {name} = {value!r}, not a whole number")
        return int(value)
