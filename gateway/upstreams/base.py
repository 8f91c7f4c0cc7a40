"""What every upstream is to the gateway."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol, runtime_checkable

from contract.errors import InvalidRequestError
from gateway.generation import Delta, Job


@runtime_checkable
class TokenTeller(Protocol):
    """An upstream that also tells what tokens are; nothing is generated for that.

    Both raise what `Upstream.generate` does.
    """

    async def tokens(self, job: Job) -> list[int]:
        """The tokens of a job's one prompt, as a model gets it."""

    async def text(self, job: Job) -> str:
        """The text of a job's one prompt, which is tokens, as an answer of them would have it."""


class PartRefusedError(InvalidRequestError):
    """One of a job's prompts is wrong, and others had been begun.

    Attributes:
        last: What these came to until they were stopped.
    """

    def __init__(self, error: InvalidRequestError, last: Sequence[Delta]) -> None:
        super().__init__(error.message, error.param, code=error.code)
        self.last = tuple(last)


class Upstream(Protocol):
    """Something that generates text."""

    def generate(self, job: Job) -> AsyncGenerator[Delta, None]:
        """Do a job and yield its pieces; closing the generator ends the job there as well.

        Raises:
            InvalidRequestError: The request is wrong: nobody will do it. A `PartRefusedError` where
                others of its prompts had been begun.
            ServerUnavailableError: It doesn't answer, it went away, it doesn't have the model
                (``ServerBrokenError``: for good), or it has no room now (``ServerBusyError``):
                another may.
            RequestTimeoutError: The request's own time is up.
            GenerationError: It took the request and failed.
        """

    async def stop(self, job: Job) -> bool:
        """Have a job that runs end soon, and its generator with its last pieces.

        They tell what was computed, as nobody would hear of it where the generator was closed. It
        may be called again and again: a job may not be there yet.

        Returns:
            Whether it will; else the generator is to be closed.
        """

    async def aclose(self) -> None:
        """Close the connections; what runs is lost."""
