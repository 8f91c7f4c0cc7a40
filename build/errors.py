"""The exceptions of the build: what a person can mend, said in one line."""

from __future__ import annotations

from python_backend.errors import TriremeError


class BuildError(TriremeError):
    """An engine cannot be built or put in its place."""


class CheckpointError(BuildError):
    """A checkpoint is incomplete, damaged or of a kind that Trireme does not build."""
