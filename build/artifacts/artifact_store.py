"""The store: a folder of numbered artifacts that are never changed.

A number is given when a build is complete, in one rename, and never given again. What an
interrupted build leaves lies under a hidden name, and the next build removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from build.artifacts.manifest import BuildRecord, Inputs, Manifest
from build.build_errors import BuildError
from python_backend.artifact import artifact_files

_STAGING = ".building"
_UNFINISHED = ".unfinished"
_LAST = ".last"


@dataclass(frozen=True)
class Artifact:
    """One version of the store."""

    folder: Path
    manifest: Manifest
    record: BuildRecord

    @property
    def version(self) -> int:
        """Its number."""
        return int(self.folder.name)

    @property
    def size_bytes(self) -> int:
        """All of its files together."""
        return sum((self.folder / name).stat().st_size for name in artifact_files(self.folder))


class Store:
    """Artifacts by number.

    Attributes:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def versions(self) -> list[int]:
        """All numbers, rising."""
        if not self.root.is_dir():
            return []
        return sorted(int(path.name) for path in self.root.iterdir() if path.name.isdecimal())

    def get(self, version: int) -> Artifact:
        """One artifact; its files are not checked.

        Raises:
            BuildError: There is none of that number, or its manifest cannot be read.
        """
        folder = self.root / str(version)
        if not folder.is_dir():
            known = ", ".join(map(str, self.versions())) or "none"
            raise BuildError(f"there is no version {version} in {self.root} (there is: {known})")
        return Artifact(folder, Manifest.read(folder), BuildRecord.read(folder))

    def find(self, inputs: Inputs) -> Artifact | None:
        """The newest artifact that was built from these inputs; damaged ones don't count."""
        for version in reversed(self.versions()):
            with contextlib.suppress(BuildError):
                artifact = self.get(version)
                if artifact.manifest.inputs == inputs:
                    return artifact
        return None

    def newest_of(self, recipe: str) -> int | None:
        """The newest version that was built from a recipe, by its digest."""
        for version in reversed(self.versions()):
            with contextlib.suppress(BuildError):
                if self.get(version).manifest.inputs.recipe == recipe:
                    return version
        return None

    @contextmanager
    def staging(self) -> Iterator[Staging]:
        """A folder to be built, which becomes a version when it is published.

        Raises:
            BuildError: Another build is at work in this store.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with self._lock():
            folder = self.root / _STAGING
            shutil.rmtree(folder, ignore_errors=True)  # left by a build that was killed
            folder.mkdir()
            try:
                yield Staging(self, folder / "artifact", self._next())
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def remove(self, version: int) -> None:
        """Delete an artifact, under a hidden name first so that half of it is never found."""
        with self._lock():
            doomed = self.root / f".removed-{version}"
            (self.root / str(version)).rename(doomed)
            shutil.rmtree(doomed)

    def _next(self) -> int:
        last = self.root / _LAST
        noted = int(last.read_text()) if last.exists() else 0
        return max([noted, *self.versions()]) + 1

    def _publish(self, folder: Path, version: int) -> Artifact:
        for path in folder.rglob("*"):
            if path.is_file():
                path.chmod(0o444)
            _flush(path)
        _flush(folder)
        (self.root / _LAST).write_text(f"{version}\n")
        folder.rename(self.root / str(version))
        _flush(self.root)
        return self.get(version)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        descriptor = os.open(self.root, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BuildError(f"another build is at work in {self.root}") from None
            yield
        finally:
            os.close(descriptor)


@dataclass(frozen=True)
class Staging:
    """A version in the making.

    Attributes:
        folder: To be made, with all that the version is to have. Beside it is room for more.
        version: The number that it will have.
    """

    store: Store
    folder: Path
    version: int

    def unfinished(self, name: str) -> Path:
        """A folder for what is built in several goes; it stays until a version is published."""
        return self.store.root / _UNFINISHED / name

    def publish(self) -> Artifact:
        """Make the folder a version of the store, for good."""
        return self.store._publish(self.folder, self.version)


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """A second name for the same bytes where the file system allows, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _flush(path: Path) -> None:
    """Have what was written outlast a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
