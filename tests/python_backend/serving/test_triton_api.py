"""What the models read of a request beside its tensors, and how an error becomes Triton's."""

from __future__ import annotations

import pytest

from contract.error_text import ErrorText, Status, read
from contract.errors import (
    EngineError,
    InvalidRequestError,
    RequestTimeoutError,
    ServerBusyError,
)
from tests.python_backend.serving.fake_triton import Request, TritonError

from python_backend.serving.triton_api import Inputs, passed_on, refusal  # isort: skip


def inputs(timeout_us: int = 0, parameters: str = "{}") -> Inputs:
    return Inputs(Request({}, timeout_us=timeout_us, parameters_json=parameters))


@pytest.mark.parametrize(
    ("timeout_us", "parameters", "expected"),
    [
        (0, "", 0),
        (0, '{"other": 5}', 0),
        (7, "{}", 7),
        (0, '{"timeout": 7}', 7),
        (0, '{"timeout": 0}', 0),
    ],
)
def test_a_timeout_is_found_wherever_triton_leaves_it(
    timeout_us: int, parameters: str, expected: int
) -> None:
    assert inputs(timeout_us, parameters).timeout_us() == expected


@pytest.mark.parametrize("value", ["-1", "1.5", '"soon"', "true", "null"])
def test_a_timeout_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"timeout is .*; it must be a whole number"):
        inputs(parameters=f'{{"timeout": {value}}}').timeout_us()


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
    assert read(triton_s.message) == ErrorText(status, "no")
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
    assert read(error.message) == ErrorText(status, "too long")
    assert error.code == code
