"""What a model repository serves, in the words of the version that was promoted into it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from contract.names import TENSORRT_LLM


@dataclass(frozen=True)
class ServedModel:
    """The engine of a model repository.

    Attributes:
        name: Its recipe's.
        created_s: When it was built, in seconds since 1970; None where nobody says.
        context_length: Most tokens of a prompt and its answer; None where nobody says.
        question: What it can be asked.
    """

    name: str = "demo"
    created_s: int | None = None
    context_length: int | None = None
    question: str = "What is the capital of France?"

    @classmethod
    def of(cls, repository: Path, version: str | None = None) -> ServedModel:
        """What lies in a repository; what its files don't say is left at its default.

        Args:
            repository: The model repository.
            version: The engine's version folder; the newest where nobody says.
        """
        folders = [
            path
            for path in (repository / TENSORRT_LLM).glob("[0-9]*")
            if path.name.isdecimal() and (path / "engine.json").is_file()
            if version is None or path.name == version
        ]
        if not folders:
            return cls()
        folder = max(folders, key=lambda path: int(path.name))
        created = _read(folder / "build.json").get("created_at")
        manifest = _read(folder / "manifest.json")
        return cls(
            name=manifest.get("name", cls.name),
            created_s=None if created is None else int(datetime.fromisoformat(created).timestamp()),
            context_length=_read(folder / "engine.json").get("context_length"),
            question=manifest.get("recipe", {}).get("question") or cls.question,
        )

    def write(self, path: Path) -> None:
        """Leave it where a gateway that follows the file finds it, in one step."""
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f"{path.name}.new")
        told = asdict(self)
        del told["question"]  # is for people
        new.write_text(json.dumps(told) + "\n", encoding="utf-8")
        new.replace(path)

    def gateway_arguments(self) -> Sequence[str]:
        """How a gateway before it is told."""
        told = [f"--model={self.name}"]
        if self.created_s is not None:
            told.append(f"--created={self.created_s}")
        if self.context_length is not None:
            told.append(f"--context-length={self.context_length}")
        return told


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
