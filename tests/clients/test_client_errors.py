"""What the server says becomes the right exception."""

from __future__ import annotations

import pytest

from clients import (
    ClientError,
    DeadlineExceededError,
    GenerationError,
    InvalidRequestError,
    ServerBrokenError,
    ServerBusyError,
    ServerUnavailableError,
)
from clients.client_errors import server_error
from contract import error_text, errors
from contract.error_text import Status
from contract.errors import TriremeError


@pytest.mark.parametrize(
    ("message", "name"),
    [
        ("top_p is 2; it must be between 0 and 1", "top_p"),
        ("in ensemble 'ensemble', top_k is -1; it must be 0 or more", "top_k"),
        ("embedding_bias has 3 values; it must have one for each", "embedding_bias_words"),
        ("[request id: r9] inference input 'seed' data-type is 'FP32'", "seed"),
        ("missing required input(s) ['max_tokens'].", "max_tokens"),
    ],
)
@pytest.mark.parametrize("status", [None, "INVALID_ARGUMENT"])
def test_refusals_name_the_input(message: str, name: str, status: str | None) -> None:
    error = server_error(message, status, "here:1")
    assert isinstance(error, InvalidRequestError)
    assert error.input_name == name
    assert "in ensemble" not in str(error)


def test_refusal_that_names_no_input() -> None:
    error = server_error("the moon is full", "INVALID_ARGUMENT", "here:1")
    assert isinstance(error, InvalidRequestError)
    assert error.input_name is None


@pytest.mark.parametrize(
    ("message", "status"),
    [
        ("the engine failed: out of memory", None),
        ("the engine's stream broke", None),
        ("top_p made the engine fail", "INTERNAL"),
    ],
)
def test_failures_are_not_the_request_s(message: str, status: str | None) -> None:
    assert isinstance(server_error(message, status, "here:1"), GenerationError)


@pytest.mark.parametrize(
    ("message", "status"),
    [
        ("in ensemble 'ensemble', Server is stopping", "UNAVAILABLE"),
        ("Server is stopping, scheduler for model has stopped accepting new requests", None),
        ("Server not ready", None),
        ("Request for unknown model: 'ensemble' version 1 is not at ready state", None),
        ("Request for unknown model: 'ensemble' is not found", None),
        ("Method not found!", "UNIMPLEMENTED"),
        ("Internal error from Core", "INTERNAL"),
        ("Received RST_STREAM with error code 2", "INTERNAL"),
        ("Stream removed", "UNKNOWN"),
    ],
)
def test_unavailable_names_the_address(message: str, status: str | None) -> None:
    error = server_error(message, status, "here:1")
    assert isinstance(error, ServerUnavailableError)
    assert error.address == "here:1"
    assert "here:1" in str(error)


@pytest.mark.parametrize(
    "message",
    [
        "Stub process 'tensorrt_llm_0_0' is not healthy.",
        "in ensemble 'ensemble', Failed to process the request(s) for model instance "
        "'preprocessing_0_0', message: Stub process 'preprocessing_0_0' is not healthy.",
        "Failed to process the request(s) for model instance 'm_0_0', message: Stub process is "
        "not healthy.",
        "Failed to obtain the health mutex.",
    ],
)
@pytest.mark.parametrize("status", [None, "INTERNAL"])
def test_a_model_whose_process_died_breaks_the_server(message: str, status: str | None) -> None:
    error = server_error(message, status, "here:1")
    assert isinstance(error, ServerBrokenError)
    assert "here:1 must be started again" in str(error)


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("[INVALID_ARGUMENT] top_p is 2", InvalidRequestError, "top_p is 2"),
        ("[UNAVAILABLE] the queue is full: 2 wait", ServerBusyError, "the queue is full: 2 wait"),
        ("[DEADLINE_EXCEEDED] the time is up", DeadlineExceededError, "the time is up"),
        ("[INTERNAL] the engine failed", GenerationError, "the engine failed"),
    ],
)
@pytest.mark.parametrize("before", ["", "in ensemble 'ensemble', "])
@pytest.mark.parametrize("status", [None, "INVALID_ARGUMENT", "INTERNAL", "UNAVAILABLE"])
def test_a_model_s_own_word_counts(
    text: str, kind: type[ClientError], message: str, before: str, status: str | None
) -> None:
    error = server_error(before + text, status, "here:1")
    assert type(error) is kind
    assert str(error) == message


@pytest.mark.parametrize(
    "quoted",
    [
        "Stub process is not healthy",
        "Server is stopping",
        "Exceeds maximum queue size",
        "[INTERNAL] x",
    ],
)
def test_a_refusal_that_quotes_the_request_stays_one(quoted: str) -> None:
    """Else one who may choose a policy's name could have a server taken for a dead one."""
    text = f"[INVALID_ARGUMENT] safety_policy is '{quoted}'; there are none, strict"
    assert type(server_error(text, None, "here:1")) is InvalidRequestError


@pytest.mark.parametrize(
    ("param", "name"),
    [
        ("top_p", "top_p"),
        ("safety_policy", "safety_policy"),
        ("input_ids", "text_input"),
        ("embedding_bias", "embedding_bias_words"),
        ("sequence_id", None),
        (None, None),
    ],
)
def test_a_model_says_what_is_to_blame_whatever_the_message_names(
    param: str | None, name: str | None
) -> None:
    text = error_text.write(Status.INVALID_ARGUMENT, "seed, stop_words and top_k", param)
    error = server_error(text, None, "here:1")
    assert isinstance(error, InvalidRequestError)
    assert error.input_name == name
    assert error.code is None


def test_a_blocked_prompt_is_told_by_its_code() -> None:
    blocked = errors.InvalidRequestError("the policy blocks it", code="content_filter")
    text = error_text.write(Status.INVALID_ARGUMENT, str(blocked), blocked.param, blocked.code)
    error = server_error(text, None, "here:1")
    assert isinstance(error, InvalidRequestError)
    assert (error.code, error.message) == ("content_filter", "the policy blocks it")
    assert str(error) == "content_filter: the policy blocks it"
    by_words = server_error("[INVALID_ARGUMENT] content_filter: so it says", None, "here:1")
    assert isinstance(by_words, InvalidRequestError)
    assert by_words.code is None


def test_triton_s_own_queue_is_busy() -> None:
    error = server_error("in ensemble 'ensemble', Exceeds maximum queue size", None, "here:1")
    assert type(error) is ServerBusyError


def test_one_base() -> None:
    assert issubclass(ClientError, TriremeError)
    assert issubclass(InvalidRequestError, ValueError)


@pytest.mark.parametrize(
    ("ours", "ground"),
    [
        (InvalidRequestError, errors.InvalidRequestError),
        (ServerUnavailableError, errors.ServerUnavailableError),
        (ServerBusyError, errors.ServerBusyError),
        (ServerBrokenError, errors.ServerBrokenError),
        (GenerationError, errors.GenerationError),
        (DeadlineExceededError, errors.RequestTimeoutError),
    ],
)
def test_each_is_the_ground_s_own(ours: type[ClientError], ground: type[TriremeError]) -> None:
    assert issubclass(ours, ground)
