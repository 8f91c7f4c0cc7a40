"""What can go wrong while a request is served, as one tree.

TriremeError
├── InvalidRequestError        the request is wrong: nobody will answer it
├── ServerUnavailableError     nobody answers: another may
│   ├── ServerBusyError        well, and without room now: another may
│   └── ServerBrokenError      answers nobody until it is started again
├── RequestTimeoutError        the request's own time is up
├── GenerationError            it was taken, and something failed
└── EngineError                an engine is missing, damaged or failed while it ran
    └── ArtifactError          an engine folder is not what was built and signed

The models raise them, the text of Triton's errors carries them (`contract.error_text`), the clients
raise them again with what they know of the address (`clients.client_errors`), and so do the
gateway's other upstreams. What the gateway answers is a branch of its own
(`gateway.gateway_errors`).
"""

from __future__ import annotations

from contract.codes import ErrorCode


class TriremeError(Exception):
    """Base of every error that Trireme raises on purpose."""


class InvalidRequestError(TriremeError, ValueError):
    """A request is wrong. The message names the input and the bound.

    Attributes:
        message: What a person is told.
        param: The input, or the request parameter, that is to blame, as whoever raises it knows it;
            None where it is none alone.
        code: What kind of mistake it is, where that has a word; the error's text begins with it.
    """

    def __init__(
        self, message: str, param: str | None = None, *, code: ErrorCode | None = None
    ) -> None:
        super().__init__(message if code is None else f"{code}: {message}")
        self.message = message
        self.param = param
        self.code = code


class ServerUnavailableError(TriremeError):
    """Nobody answers, whoever did went away, or the model isn't there."""


class ServerBusyError(ServerUnavailableError):
    """There is no room for a request now; it may succeed later."""


class ServerBrokenError(ServerUnavailableError):
    """A part of a server died: it will answer nobody until somebody starts it again."""


class RequestTimeoutError(TriremeError):
    """A request's time is up before it is answered."""


class GenerationError(TriremeError):
    """A request was taken, and something failed."""


class EngineError(TriremeError):
    """An engine is missing, damaged or failed while it ran."""


class ArtifactError(EngineError):
    """An engine folder is not what was built and signed."""
