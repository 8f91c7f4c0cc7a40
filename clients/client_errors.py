"""What can go wrong between a client and the server, as a small tree.

ClientError
├── ServerUnavailableError    nothing answers, or the model is not loaded: try again, elsewhere
│   ├── ServerBusyError       it is well and has no room: try again later
│   └── ServerBrokenError     a process of it died: it must be started again
├── InvalidRequestError       the request is wrong: trying again cannot help
├── GenerationError           the server took the request and failed
└── DeadlineExceededError     the answer was not complete in time
"""

from __future__ import annotations

import re

from contract import error_text, errors
from contract.error_text import ErrorText, Status
from contract.errors import TriremeError
from contract.models import ENSEMBLE_MODEL, EngineInputs, EnsembleInputs
from contract.names import REQUEST_PARAMETERS


class ClientError(TriremeError):
    """Base of every error that the clients raise on purpose."""


class ServerUnavailableError(ClientError, errors.ServerUnavailableError):
    """No server answers at the address, it went away, or it does not have the model.

    Attributes:
        address: Where the client looked.
    """

    def __init__(self, message: str, address: str) -> None:
        super().__init__(message)
        self.address = address


class ServerBusyError(ServerUnavailableError, errors.ServerBusyError):
    """The server answers, and its queue has no room for the request."""


class ServerBrokenError(ServerUnavailableError, errors.ServerBrokenError):
    """The server answers, and the process of one of its models died.

    Triton starts no such process again, and says that it is ready all the same.
    """


class InvalidRequestError(ClientError, errors.InvalidRequestError):
    """The request is wrong; the message, mostly the server's own, says what and which bound.

    Attributes:
        code: What kind of mistake it is, where that has a word: ``content_filter``, say.
    """

    @property
    def input_name(self) -> str | None:
        """The ensemble's input, or the request parameter, that is to blame; None where it is none
        that is known.
        """
        return self.param


class GenerationError(ClientError, errors.GenerationError):
    """The server accepted the request and failed to answer it."""


class DeadlineExceededError(ClientError, errors.RequestTimeoutError, TimeoutError):
    """The answer was not complete after `timeout_s`; the request has been cancelled."""


# How Triton's own queues say it.
_BUSY = re.compile("Exceeds maximum queue size", re.IGNORECASE)
# How Triton says that it ends, or that it doesn't serve the model now.
_AWAY = re.compile(
    "Server is stopping|Server not ready|Request for unknown model: .* at ready state"
)
# How Triton's Python backend says it of the process that runs a model.
_BROKEN = re.compile("Stub process .*is not healthy|Failed to obtain the health mutex")
# How gRPC says that a connection broke in the middle of a call, beside UNAVAILABLE.
_CUT = re.compile("Stream removed|Received RST_STREAM|Internal error from Core")
# What the engine calls the ensemble's inputs, where nothing else is made of them.
_ALIASES = {
    EngineInputs.INPUT_IDS.name: EnsembleInputs.TEXT_INPUT.name,
    EngineInputs.EMBEDDING_BIAS.name: EnsembleInputs.EMBEDDING_BIAS_WORDS.name,
}
_KNOWN = frozenset((*ENSEMBLE_MODEL.input_names(), *REQUEST_PARAMETERS))
# In the words of Triton itself, which have no mark.
_NAMES = "|".join(re.escape(name) for name in sorted((*_KNOWN, *_ALIASES), key=len, reverse=True))
_ANYWHERE = re.compile(rf"\b({_NAMES})\b")
_TO_BLAME = re.compile(rf"^(?:input )?({_NAMES})\b|['\"`]({_NAMES})['\"`]")


def server_error(text: str, status: str | None, address: str) -> ClientError:
    """The exception for what the server said.

    Trireme's models write the kind of an error into its text, and what they wrote is not asked for
    more: it may quote the request. Triton's own errors are known by how they are worded. Over HTTP
    and in a gRPC stream they come without a status; such an error counts as the request's where the
    message begins with the name of an input or parameter, or quotes one.

    Args:
        text: The server's words.
        status: gRPC's name of the status, such as ``INVALID_ARGUMENT``; None where it is not known.
        address: The server's.
    """
    said = error_text.read(text)
    if said.status is not None:
        return _model_error(said.status, said, address)
    message = said.message
    if status == "DEADLINE_EXCEEDED":
        return DeadlineExceededError("the answer was not complete in time")
    if _BUSY.match(message):
        return ServerBusyError(message, address)
    if _BROKEN.search(message):
        return ServerBrokenError(f"{address} must be started again: {message}", address)
    if status in ("UNAVAILABLE", "UNIMPLEMENTED") or _AWAY.match(message):
        return unavailable(address, message)
    if message.startswith("Request for unknown model"):
        return ServerUnavailableError(f"{address} does not have the model: {message}", address)
    if status in ("INTERNAL", "UNKNOWN") and _CUT.match(message):
        return unavailable(address, message)
    if status == "INVALID_ARGUMENT":
        return InvalidRequestError(message, _input_name(_ANYWHERE.search(message)))
    named = _TO_BLAME.search(message) if status is None else None
    if named:
        return InvalidRequestError(message, _input_name(named))
    return GenerationError(message)


def _model_error(status: Status, said: ErrorText, address: str) -> ClientError:
    """The exception for what a model of ours said."""
    if status is Status.INVALID_ARGUMENT:
        return InvalidRequestError(said.message, _known(said.param), code=said.code)
    if status is Status.UNAVAILABLE:
        return ServerBusyError(said.message, address)
    if status is Status.DEADLINE_EXCEEDED:
        return DeadlineExceededError(said.message)
    return GenerationError(said.message)


def unavailable(address: str, reason: str) -> ServerUnavailableError:
    """The exception for a server that does not answer, and what to do about it."""
    return ServerUnavailableError(
        f"no answer from {address} ({reason}): start a server with `make serve`, "
        "or correct the address",
        address,
    )


def _input_name(named: re.Match[str] | None) -> str | None:
    return None if named is None else _known(next(group for group in named.groups() if group))


def _known(param: str | None) -> str | None:
    """What a client of the ensemble calls an input; None for what it doesn't know."""
    name = _ALIASES.get(param, param) if param is not None else None
    return name if name in _KNOWN else None
