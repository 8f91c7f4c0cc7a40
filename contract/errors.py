"""The exceptions of the serving path."""

from __future__ import annotations


class TriremeError(Exception):
    """Base of every error that Trireme raises on purpose."""


class InvalidRequestError(TriremeError, ValueError):
    """A request's input is wrong. The message names the input and the bound."""


class ServerBusyError(TriremeError):
    """There is no room for a request now; it may succeed later."""


class RequestTimeoutError(TriremeError):
    """A request's time is up before it is answered."""


class EngineError(TriremeError):
    """An engine is missing, damaged or failed while it ran."""


class ArtifactError(EngineError):
    """An engine folder is not what was built and signed."""
