"""The status of an error travels in its text."""

from __future__ import annotations

import pytest

from contract.codes import ErrorCode
from contract.error_text import MAX_CHARACTERS, ErrorText, Status, read, write


@pytest.mark.parametrize("status", Status)
def test_what_is_written_is_read(status: Status) -> None:
    text = write(status, "top_p is 2; it must be between 0 and 1")
    assert text == f"[{status.name}] top_p is 2; it must be between 0 and 1"
    assert read(text) == ErrorText(status, "top_p is 2; it must be between 0 and 1")
    assert read(f"in ensemble 'ensemble', {text}") == read(text)


@pytest.mark.parametrize(
    "text",
    [
        "inference request batch-size must be <= 8 for 'ensemble'",
        "unexpected input '[INTERNAL] x'",
        "[OK] nothing is wrong",
        "[INTERNAL]",
        "",
    ],
)
def test_what_nobody_of_ours_wrote_has_no_status(text: str) -> None:
    assert read(text) == ErrorText(None, text)


def test_a_request_s_id_cannot_pass_for_a_status() -> None:
    text = "[request id: [INTERNAL] ] input 'top_p' is too much"
    assert read(text).status is None
    text = "[request id: a] [INTERNAL] input 'top_p' is too much"
    assert read(text) == ErrorText(None, "[INTERNAL] input 'top_p' is too much")


def test_a_message_is_cut_where_it_quotes_too_much() -> None:
    text = write(Status.INVALID_ARGUMENT, "safety_policy is '" + "x" * 4_000_000)
    assert len(read(text).message) == MAX_CHARACTERS
    assert text.endswith("x…")


def test_half_a_character_can_be_sent() -> None:
    assert write(Status.INVALID_ARGUMENT, "it is \ud800").encode() == (
        b"[INVALID_ARGUMENT] it is \\ud800"
    )


@pytest.mark.parametrize("param", [None, "top_p"])
@pytest.mark.parametrize("code", [None, "content_filter"])
def test_what_is_to_blame_and_its_code_travel_too(
    param: str | None, code: ErrorCode | None
) -> None:
    message = "it is wrong" if code is None else f"{code}: it is wrong"
    text = write(Status.INVALID_ARGUMENT, message, param, code)
    assert text.endswith(message)
    assert read(text) == ErrorText(Status.INVALID_ARGUMENT, "it is wrong", param, code)


@pytest.mark.parametrize(
    "message", ["param=top_p] x", " code=content_filter] x", "content_filter: so it says"]
)
def test_a_message_can_say_neither(message: str) -> None:
    text = write(Status.INVALID_ARGUMENT, message)
    assert read(text) == ErrorText(Status.INVALID_ARGUMENT, message)


def test_a_code_that_nobody_knows_is_none() -> None:
    assert read("[INTERNAL code=later] x") == ErrorText(Status.INTERNAL, "x")


def test_a_message_may_have_lines_and_a_status_of_its_own() -> None:
    message = "[INTERNAL] one\ntwo"
    text = write(Status.INVALID_ARGUMENT, message)
    assert read(text) == ErrorText(Status.INVALID_ARGUMENT, message)
