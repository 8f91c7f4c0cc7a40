"""What the models read of a request beside its tensors."""

from __future__ import annotations

import pytest

from contract.errors import InvalidRequestError
from tests.python_backend.serving.fake_triton import Request

from python_backend.serving.triton_api import Inputs  # isort: skip


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
