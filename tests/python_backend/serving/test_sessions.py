"""Sessions: streams are found by their ids and their requests', and each ends once."""

from __future__ import annotations

import math

import numpy as np
import pytest

from contract.codes import Ending
from contract.errors import InvalidRequestError
from tests.python_backend.serving.clock import Clock
from tests.python_backend.serving.fake_triton import InferenceResponse, Request, TritonError

from python_backend.serving.encoding import Piece  # isort: skip
from python_backend.serving.sessions import Session, Sessions, Stream, timeout_error  # isort: skip
from python_backend.serving.stop_request import Stop  # isort: skip


def make_session(
    *ids: int, request_id: str = "", clock: Clock | None = None, timeout_s: float = math.inf
) -> tuple[Session[Stream], Request]:
    request = Request({}, id=request_id)
    streams = [Stream(each, 0, 0, b"") for each in ids]
    clock = clock or Clock()
    return Session(request, streams, timeout_s=timeout_s, clock=clock), request


def tokens(*ids: int, reason: Ending = "") -> Piece:
    return Piece((np.array(ids, dtype=np.int32),), reason)


def ids(streams: list[Stream]) -> list[int]:
    return [stream.id for stream in streams]


def test_the_last_response_of_all_streams_is_the_final_one() -> None:
    session, request = make_session(1, 2)
    first, second = session.streams
    session.send(first, tokens(7))
    session.send(first, tokens(8, reason="stop"))
    assert not request.ended
    assert session.unended == [second]
    session.send(second, tokens(9, reason="length"))
    assert request.ended
    assert [each.outputs["output_ids"].item() for each in request.responses] == [7, 8, 9]


def test_nothing_follows_the_last_response_of_a_stream() -> None:
    session, request = make_session(1, 2)
    (first, _) = session.streams
    session.send(first, tokens(reason="stop"))
    session.send(first, tokens(8))
    session.fail(first, InvalidRequestError("late"))
    first.probe()
    assert len(request.responses) == 1


def test_a_stream_that_fails_leaves_the_others() -> None:
    session, request = make_session(1, 2)
    first, second = session.streams
    session.fail(first, InvalidRequestError("no"))
    assert request.responses[0].error is not None
    assert request.responses[0].error.code == TritonError.INVALID_ARG
    assert not request.ended
    session.send(second, tokens(9, reason="stop"))
    assert request.ended


def test_all_that_goes_on_can_fail_at_once_and_only_once() -> None:
    session, request = make_session(1, 2, 3)
    session.send(session.streams[0], tokens(7, reason="stop"))
    error = InferenceResponse(error=TritonError("the engine died"))
    session.fail_all(error)
    session.fail_all(error)
    session.streams[1].probe()
    assert request.ended
    assert request.responses[1:] == [error]
    assert session.unended == []


def test_what_preprocessing_said_goes_with_the_first_response_alone() -> None:
    request = Request({})
    session = Session(request, [Stream(1, 0, 0, b"said")])
    session.streams[0].probe()
    session.streams[0].probe()
    first, second = request.responses
    assert first.outputs["stream_context"].tolist() == [[b"said"]]
    assert "stream_context" not in second.outputs


def test_a_stream_knows_when_it_was_last_heard() -> None:
    clock = Clock(5)
    session, _ = make_session(1, clock=clock)
    (stream,) = session.streams
    assert stream.last_sent_s == 5
    clock.now_s = 7
    session.send(stream, tokens(1))
    assert stream.last_sent_s == 7


def test_a_client_that_left_shows_until_all_was_sent() -> None:
    session, request = make_session(1)
    assert not session.is_abandoned()
    request.cancelled = True
    assert session.is_abandoned()
    session.send(session.streams[0], tokens(reason="stop"))
    assert not session.is_abandoned()


def test_streams_are_found_by_their_ids_and_by_their_requests() -> None:
    sessions: Sessions[Stream] = Sessions()
    for session, _ in (
        make_session(1, 2, request_id="a"),
        make_session(3, request_id="a"),
        make_session(4),
    ):
        sessions.open(session)
    assert ids(sessions.streams()) == [1, 2, 3, 4]
    assert sessions.by_id[3].session.request_id == "a"
    assert ids(sessions.named(Stop(2, "a"))) == [2]
    assert ids(sessions.named(Stop(None, "a"))) == [1, 2, 3]
    assert ids(sessions.named(Stop(2, "a", client_gone=True))) == [1, 2]
    assert sessions.named(Stop(9, "a")) == []
    assert sessions.named(Stop(None, "b")) == []
    sessions.close(sessions.by_id[1])
    assert ids(sessions.named(Stop(None, "a"))) == [2, 3]
    assert ids(sessions.named(Stop(2, "a", client_gone=True))) == [2]
    assert sessions.named(Stop(1)) == []


def test_nothing_is_kept_of_what_was_closed() -> None:
    sessions: Sessions[Stream] = Sessions()
    session, _ = make_session(1, 2, request_id="a")
    sessions.open(session)
    for stream in session.streams:
        sessions.close(stream)
    assert sessions.streams() == []
    assert not sessions.by_id
    assert not sessions._by_request_id


def test_streams_whose_time_is_up_are_named_once() -> None:
    clock = Clock(10)
    sessions: Sessions[Stream] = Sessions()
    for session, _ in (
        make_session(1, 2, clock=clock, timeout_s=5),
        make_session(3, clock=clock, timeout_s=2),
        make_session(4, clock=clock),
    ):
        sessions.open(session)
    assert sessions.overdue(11.9) == []
    assert ids(sessions.overdue(12)) == [3]
    assert sessions.overdue(14) == []
    sessions.close(sessions.by_id[1])
    assert ids(sessions.overdue(99)) == [2]
    assert sessions.overdue(10**9) == []


@pytest.mark.parametrize(("timeout_s", "shown"), [(0.25, "0.25"), (30.0, "30")])
def test_who_waited_in_vain_is_told_how_far_it_came(timeout_s: float, shown: str) -> None:
    session, _ = make_session(1, timeout_s=timeout_s)
    assert str(timeout_error(session, 3, 9)) == (
        f"the request's timeout of {shown} s expired after 3 of 9 tokens"
    )
