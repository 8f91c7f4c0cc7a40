"""The exceptions of the build: what a person can mend, said in one line."""

from __future__ import annotations

from contract.errors import TriremeError


class BuildError(TriremeError):
    """An engine cannot be built or put in its place."""


class CheckpointError(BuildError):
    """A checkpoint is incomplete, damaged or of a kind that Trireme does not build."""


class LicenceError(BuildError):
    """A checkpoint's licence does not allow the build, or is not known."""


class QualityError(BuildError):
    """An engine is further from its checkpoint than the recipe allows."""


class UnfinishedError(BuildError):
    """What this machine can do is done; the message says how to go on elsewhere."""


class RecipeError(BuildError):
    """A recipe cannot be read or has a setting that is not one."""
