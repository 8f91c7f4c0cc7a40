"""Stopping a request: what is asked is what is read, whoever asks."""

from __future__ import annotations

from typing import Any

import pytest

from contract.errors import InvalidRequestError
from contract.models import TENSORRT_LLM_ADAPTER_MODEL, TENSORRT_LLM_MODEL
from contract.tensors import Model
from tests.python_backend.serving.fake_triton import Request, Tensor, make_request

from python_backend.serving.stop_request import Stop, read_stop, stop_request  # isort: skip
from python_backend.serving.triton_api import Inputs  # isort: skip


def read(request: Request) -> Stop | None:
    return read_stop(request, Inputs(request))


@pytest.mark.parametrize("sequence_id", [None, 0, 2**64 - 1])
def test_what_is_asked_is_what_is_read(sequence_id: int | None) -> None:
    asked = stop_request("the_engine", "theirs", sequence_id)
    assert (asked.model_name, asked.request_id) == ("the_engine", "theirs")
    tensors = {name: Tensor(name, array) for name, array in asked.inputs.items()}
    assert read(Request(tensors, id="theirs")) == Stop(sequence_id, "theirs")


def test_a_client_that_is_gone_is_said_to_be() -> None:
    asked = stop_request("the_engine", "theirs", 5, client_gone=True)
    tensors = {name: Tensor(name, array) for name, array in asked.inputs.items()}
    assert read(Request(tensors, id="theirs")) == Stop(5, "theirs", client_gone=True)


@pytest.mark.parametrize("model", [TENSORRT_LLM_MODEL, TENSORRT_LLM_ADAPTER_MODEL])
def test_it_has_what_the_model_insists_on_and_nothing_that_it_lacks(model: Model) -> None:
    inputs = set(stop_request("the_engine", "theirs", 5, client_gone=True).inputs)
    assert {each.name for each in model.inputs if not each.optional} <= inputs
    assert inputs <= set(model.input_names())


@pytest.mark.parametrize("stop", [{}, {"stop": [[False]]}])
def test_any_other_request_is_none(stop: dict[str, Any]) -> None:
    assert read(make_request(TENSORRT_LLM_MODEL, **stop, sequence_id=[[5]])) is None


def test_a_sequence_needs_no_request_id() -> None:
    request = make_request(TENSORRT_LLM_MODEL, stop=[[True]], sequence_id=[[5]])
    request.id = ""
    assert read(request) == Stop(5, "")


def test_it_has_to_say_what_ends() -> None:
    request = make_request(TENSORRT_LLM_MODEL, stop=[[True]])
    request.id = ""
    with pytest.raises(InvalidRequestError, match="stop needs a request id or a sequence_id"):
        read(request)
