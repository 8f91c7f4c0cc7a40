"""The status of an error, written into its text.

Triton loses the status of an error that ends a gRPC stream: what arrives is a text. There is a
header that makes it send the status instead, ``triton_grpc_error``, and a server that is asked so
dies of some of its refusals (up to 2.67; server#8708). So the models write the status before the
message, in gRPC's word for it, and beside it what else programs may want to know: the input that
is to blame, and the word for what is wrong where it has one::

    [INVALID_ARGUMENT param=top_p] top_p is 2; it must be between 0 and 1
    [INVALID_ARGUMENT code=content_filter] content_filter: the policy strict blocks the prompt

A person can read it in whatever client, and Trireme's clients take it off again. What begins so was
said by a model of ours on purpose; what doesn't is Triton's own word.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import NamedTuple, cast, get_args

from contract.codes import ErrorCode

MAX_CHARACTERS = 2000
"""A message may quote what a client wrote, of any length; what is longer is cut."""


class Status(Enum):
    """What kind of error it is, and so what its client can do."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    """The request is wrong; to send it again can't help."""
    UNAVAILABLE = "UNAVAILABLE"
    """There is no room for it now; it may succeed later."""
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    """Its time was up before it was answered."""
    INTERNAL = "INTERNAL"
    """It was taken, and something failed."""


class ErrorText(NamedTuple):
    """An error as it was read.

    Attributes:
        status: What kind it is; None where no model of ours wrote it.
        message: What a person is told, without the code that it began with.
        param: The input, or the request parameter, that is to blame; None where it doesn't say.
        code: What is wrong, where that has a word.
    """

    status: Status | None
    message: str
    param: str | None = None
    code: ErrorCode | None = None


def write(
    status: Status, message: str, param: str | None = None, code: ErrorCode | None = None
) -> str:
    """The text of an error; the message begins with the code, for a person to see."""
    # Half a character has no UTF-8, and the text of an error must never be an error itself.
    message = message.encode("utf-8", "backslashreplace").decode()
    if len(message) > MAX_CHARACTERS:
        message = f"{message[: MAX_CHARACTERS - 1]}…"
    notes = {"param": param, "code": code}
    noted = "".join(f" {name}={value}" for name, value in notes.items() if value is not None)
    return f"[{status.value}{noted}] {message}"


def read(text: str) -> ErrorText:
    """What a text says, whatever Triton put before it."""
    found = _STATUS.match(text)
    if found is None:
        return ErrorText(None, _TRITON_S.sub("", text))
    message, code = text[found.end() :], found["code"]
    if code not in _CODES:
        return ErrorText(Status(found["status"]), message, found["param"])
    message = message.removeprefix(f"{code}: ")
    return ErrorText(Status(found["status"]), message, found["param"], cast(ErrorCode, code))


# What Triton puts before a model's own message, and before one of its own. A request's id is what
# its client made it, so no status is looked for behind one.
_ENSEMBLE = "in ensemble '[^']*', "
_TRITON_S = re.compile(rf"^(?:{_ENSEMBLE}|\[request id: [^\]]*\] )+")
_STATUS = re.compile(
    rf"(?:{_ENSEMBLE})*\[(?P<status>{'|'.join(status.value for status in Status)})"
    r"(?: param=(?P<param>\w+))?(?: code=(?P<code>\w+))?\] "
)
_CODES = frozenset(get_args(ErrorCode))
