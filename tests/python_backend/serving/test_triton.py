"""An error becomes one of Triton's, its kind both in Triton's code and in the text."""

from __future__ import annotations

import pytest

from contract.error_text import Status, read
from python_backend.errors import (
    EngineError,
    InvalidRequestError,
    RequestTimeoutError,
    ServerBusyError,
)
from tests.python_backend.serving.fake_triton import TritonError

from python_backend.serving.triton import passed_on, refusal  # isort: skip


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidRequestError("no"), Status.INVALID_ARGUMENT, TritonError.INVALID_ARG),
        (ServerBusyError("no"), Status.UNAVAILABLE, TritonError.UNAVAILABLE),
        (RequestTimeoutError("no"), Status.DEADLINE_EXCEEDED, TritonError.UNAVAILABLE),
        (EngineError("no"), Status.INTERNAL, TritonError.INTERNAL),
        (ZeroDivisionError("no"), Status.INTERNAL, TritonError.INTERNAL),
    ],
)
def test_each_error_has_its_status(error: Exception, status: Status, code: int) -> None:
    triton_s = refusal(error).error
    assert read(triton_s.message) == (status, "no")
    assert triton_s.code == code


def test_an_error_without_words_says_its_name() -> None:
    assert read(refusal(KeyError()).error.message).message == "KeyError()"


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (TritonError.INVALID_ARG, Status.INVALID_ARGUMENT),
        (TritonError.UNAVAILABLE, Status.UNAVAILABLE),
        (TritonError.INTERNAL, Status.INTERNAL),
        (5, Status.INTERNAL),
    ],
)
def test_another_model_s_error_is_handed_on(code: int, status: Status) -> None:
    class Theirs:
        """As Triton shows an error that another model answered with."""

        def code(self) -> int:
            return code

        def message(self) -> str:
            return "too long"

    error = passed_on(Theirs()).error
    assert read(error.message) == (status, "too long")
    assert error.code == code
