"""What an artifact says about itself.

``manifest.json`` follows from the inputs alone: the same checkpoint, recipe and tools give the same
bytes, wherever and whenever they are built. What differs from build to build (the number, the time,
the machine and how fast it was) is in ``build.json``. The signature covers both.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from build.build_errors import BuildError
from build.licence import LicenceFinding
from build.progress import Progress, silent
from build.quality.figures import QualityReport
from build.sizing import Memory
from python_backend.artifact import file_digest, root_digest

MANIFEST_FILE = "manifest.json"
RECORD_FILE = "build.json"

_TOOLS = ("numpy", "onnx", "onnxruntime", "safetensors", "ml_dtypes", "tokenizers")
_BUILDER = Path(__file__).resolve().parents[1]
_ENGINE = _BUILDER.parent / "python_backend" / "engine"
_DESCRIPTION = ("layers.py", "engine_config.py", "tensor_places.py")
"""The sources in ``_ENGINE`` that an engine's own description follows from."""


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def write(self, path: Path) -> None:
        """Write the document, keys in a fixed order."""
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


class Inputs(_Document):
    """All that a build depends on.

    Attributes:
        checkpoint: SHA-256 over the checkpoint's files.
        recipe: SHA-256 of the recipe; where the checkpoint lies does not count.
        suite: SHA-256 of the quality suite's file, where the recipe names one.
        calibration: SHA-256 of the calibration text, where the recipe names one.
        tools: Version of each package that has a say in the bytes, and SHA-256 of the builder's
            own source as ``trireme``.
    """

    checkpoint: str
    recipe: str
    suite: str | None
    calibration: str | None
    tools: dict[str, str]


class Manifest(_Document):
    """``manifest.json``.

    Attributes:
        name: The recipe's name.
        inputs: What the build depends on.
        recipe: The recipe in full, defaults included.
        architecture: The checkpoint's architecture.
        parameters: How many parameters the checkpoint has.
        licence: What the licence audit found.
        memory: What serving takes, as planned.
        quality: What the quality gate measured, or why it was off.
        files: SHA-256 of every file of the engine.
    """

    format_version: Literal[1] = 1
    name: str
    inputs: Inputs
    recipe: dict[str, Any]
    architecture: str
    parameters: int
    licence: LicenceFinding
    memory: Memory
    quality: QualityReport
    files: dict[str, str]

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read an artifact's manifest.

        Raises:
            BuildError: It is missing or not a manifest.
        """
        return _read(cls, folder / MANIFEST_FILE)


class BuildRecord(_Document):
    """``build.json``: one build, as it happened.

    Attributes:
        version: The artifact's number.
        created_at: UTC, ISO 8601.
        duration_s: From the checkpoint to the signature.
        machine: The processor, and the cores that the build had.
        tokens_per_s: Output of the engine with a full batch, measured by the gate; None where the
            gate was off.
        trireme: The version of Trireme that built it; None in a record from before it had one.
    """

    version: int
    created_at: str
    duration_s: float
    machine: str
    tokens_per_s: float | None
    trireme: str | None = None

    @classmethod
    def read(cls, folder: Path) -> BuildRecord:
        """Read an artifact's record.

        Raises:
            BuildError: It is missing or not a record.
        """
        return _read(cls, folder / RECORD_FILE)


def _read(kind: Any, path: Path) -> Any:
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BuildError(f"{path} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        wrong = [": ".join([*map(str, each["loc"]), each["msg"]]) for each in error.errors()]
        raise BuildError(f"{path} cannot be read: {'; '.join(wrong)}") from None


def digest_of(document: Any) -> str:
    """SHA-256 of a JSON document, whatever the order of its keys."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def tools() -> dict[str, str]:
    """What a build's bytes depend on beside its inputs, with versions."""
    found = {name: version(name) for name in _TOOLS}
    return {**found, "trireme": _source_digest(), "machine": platform.machine()}


def _source_digest() -> str:
    """The builder's own source, and what an engine's description follows from; the demo's training
    and the recipes have no say.
    """
    files = [
        path
        for path in sorted(_BUILDER.rglob("*"))
        if path.suffix in (".py", ".txt")
        and path.relative_to(_BUILDER).parts[0] not in ("demo", "artifacts")
    ]
    digests = {str(path.relative_to(_BUILDER)): file_digest(path) for path in files}
    digests |= {f"engine/{name}": file_digest(_ENGINE / name) for name in _DESCRIPTION}
    return root_digest(digests)


class DigestCache:
    """SHA-256 of large files, remembered for as long as size and time of change stay.

    A checkpoint of many gigabytes is read once, not at every start.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._known: dict[str, list[Any]] = json.loads(path.read_bytes())
        except (OSError, ValueError):
            self._known = {}

    def digests(self, files: Iterable[Path], progress: Progress = silent) -> dict[str, str]:
        """The digest of each file, by name."""
        stamps = {path: _stamp(path) for path in sorted(files)}
        unknown = [
            path for path, stamp in stamps.items() if self._known.get(_key(path), [])[:3] != stamp
        ]
        total, done = sum(path.stat().st_size for path in unknown), 0

        def report(count: int) -> None:
            nonlocal done
            done += count
            progress("checkpoint: digest, MB", done // 10**6, total // 10**6)

        for path in unknown:
            self._known[_key(path)] = [*stamps[path], file_digest(path, report)]
        if unknown:
            self._save()
        return {path.name: self._known[_key(path)][3] for path in stamps}

    def _save(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name(f"{self._path.name}.new")
        temporary.write_text(json.dumps(self._known), encoding="utf-8")
        temporary.replace(self._path)


def _key(path: Path) -> str:
    return str(path.resolve())


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]
