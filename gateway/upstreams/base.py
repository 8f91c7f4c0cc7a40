"""What every upstream is to the gateway, and how it can fail.

UpstreamError
├── UpstreamUnavailable    doesn't answer, or went away: another may
│   └── UpstreamLost       answers nobody until it is started again
├── UpstreamBusy           has no room now: another may
├── UpstreamRefused        the request is wrong: nobody will
├── UpstreamTimeout        the request's own time is up
└── UpstreamFailed         took the request and failed
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from gateway.generation import Delta, Job


class UpstreamError(Exception):
    """Base of what an upstream raises. The message is the upstream's own."""


class UpstreamUnavailable(UpstreamError):  # noqa: N818 - says what happened
    """It doesn't answer, it went away, or it doesn't have the model."""


class UpstreamLost(UpstreamUnavailable):
    """A part of it died: it will answer nobody until somebody starts it again."""


class UpstreamBusy(UpstreamError):  # noqa: N818 - says what happened
    """It is well and has no room for the request now."""


class UpstreamRefused(UpstreamError):  # noqa: N818 - says what happened
    """The request is wrong.

    Attributes:
        param: The job's field that is to blame, in OpenAI's words; None where it doesn't say.
        code: OpenAI's word for what is wrong, ``content_filter`` say; None for none.
    """

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class UpstreamTimeout(UpstreamError):  # noqa: N818 - says what happened
    """The request's own time is up."""


class UpstreamFailed(UpstreamError):  # noqa: N818 - says what happened
    """It took the request and failed."""


class Upstream(Protocol):
    """Something that generates text."""

    def generate(self, job: Job) -> AsyncGenerator[Delta, None]:
        """Do a job and yield its pieces; closing the generator ends the job there as well.

        Raises:
            UpstreamError: It failed.
        """

    async def aclose(self) -> None:
        """Close the connections; what runs is lost."""
