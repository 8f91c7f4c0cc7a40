"""A Triton replica over gRPC: how it is asked, how it fails, and how it is left."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import anyio
import numpy as np
import pytest

from clients import (
    ClientError,
    DeadlineExceededError,
    GenerationError,
    InvalidRequestError,
    ServerBrokenError,
    ServerBusyError,
    ServerUnavailableError,
    grpc_transport,
)
from contract.errors import RequestTimeoutError
from contract.parameters import NO_END, GenerationParameters
from gateway.configuration import TritonSettings
from gateway.generation import Chat, Delta, Job, Texts, Tokens
from gateway.upstreams.triton_upstream import Triton
from tests.clients.fakes import HANG, Failure, FakeTriton, start, text
from tests.gateway.test_provider_upstream import job


@pytest.fixture
def server() -> Iterator[FakeTriton]:
    yield from start(FakeTriton())


def upstream(server: FakeTriton) -> Triton:
    return Triton(TritonSettings(name="a", address=server.urls["grpc"]))


async def collect(triton: Triton, wanted: Job) -> list[Delta]:
    return [delta async for delta in triton.generate(wanted)]


def test_pieces_come_as_the_server_sends_them(server):
    server.script = [text("Hel"), text("lo", "stop")]
    deltas = asyncio.run(collect(upstream(server), job()))
    assert [(delta.text, delta.finish_reason) for delta in deltas] == [("Hel", ""), ("lo", "stop")]
    (received,) = server.received
    assert received.inputs["stream"].item() is True
    assert received.inputs["priority"].item() == 5


def sent(server: FakeTriton, wanted: Job) -> list[dict[str, list[Any]]]:
    """What the server is asked."""
    server.script = [text("a", "stop")]
    asyncio.run(collect(upstream(server), wanted))
    asked = sorted(server.received, key=lambda received: received.request_id)
    return [
        {name: array.reshape(-1).tolist() for name, array in each.inputs.items()} for each in asked
    ]


REPORTS = {
    "priority": [5],
    "exclude_input_in_output": [True],
    "include_stop_str_in_output": [False],
    "return_num_input_tokens": [True],
    "return_num_output_tokens": [True],
    "return_computed_tokens": [True],
    "stream": [True],
}


def test_a_chat_is_asked_as_it_is_encoded(server):
    chat = Chat.of([{"role": "user", "content": "Où ?"}])
    assert sent(server, job(chat)) == [
        {
            "text_input": [b""],
            "messages": [chat.encoded],
            "max_tokens": [16],
            "parse_answer": [True],
            **REPORTS,
        }
    ]


def test_texts_are_asked_one_by_one_and_what_is_said_of_them_goes_along(server):
    parameters = GenerationParameters(
        max_tokens=9, seed=-5, stop_words=("x", "y"), logit_bias={7: -1.0}, end_id=NO_END
    )
    said = {
        "max_tokens": [9],
        "seed": [2**64 - 5],
        "stop_words": [b"x", b"y"],
        "embedding_bias_ids": [7],
        "embedding_bias_weights": [-1.0],
        "end_id": [-1],
    }
    assert sent(server, job(Texts.of(("a", "b")), parameters)) == [
        {"text_input": [text], **said, **REPORTS} for text in (b"a", b"b")
    ]
    assert {each.request_id for each in server.received} == {"id.0", "id.1"}


def test_tokens_are_asked_one_prompt_after_the_other(server):
    assert sent(server, job(Tokens.of(((5, 6), (7,))))) == [
        {"text_input": [b""], "prompt_token_ids": ids, "max_tokens": [16], **REPORTS}
        for ids in ([5, 6], [7])
    ]


def test_what_is_told_of_the_prompt_is_read(server):
    told = {
        "prompt_ids": np.array([[5, 6, 7]], dtype=np.int32),
        "prompt_token_texts": np.array([[b"a", b"bytes:\\xc3", b"c"]], dtype=np.object_),
        "prompt_log_probs": np.array([[-1.0, -2.0]], dtype=np.float32),
        "prompt_top_log_prob_ids": np.array([[[6, 8], [9, 7]]], dtype=np.int32),
        "prompt_top_log_probs": np.array([[[-1.0, -4.0], [-0.5, -2.0]]], dtype=np.float32),
        "prompt_top_tokens": np.array([[[b"b", b"d"], [b"e", b"c"]]], dtype=np.object_),
    }
    server.script = [text("x", "stop", **told)]
    (delta,) = asyncio.run(collect(upstream(server), job()))
    assert delta.prompt is not None
    assert [(each.token, each.logprob, each.id) for each in delta.prompt] == [
        ("a", None, 5),
        ("\ufffd", -1.0, 6),
        ("c", -2.0, 7),
    ]
    assert [[each.id for each in token.top] for token in delta.prompt] == [[], [6, 8], [9, 7]]
    assert delta.num_entries == 7


def test_what_the_policy_leaves_out_of_a_prompt_s_scores_is_no_score(server):
    told = {
        "prompt_ids": np.array([[5, 6, 7]], dtype=np.int32),
        "prompt_token_texts": np.array([[b"a", b"4", b"c"]], dtype=np.object_),
        "prompt_log_probs": np.array([[1.0, -2.0]], dtype=np.float32),
        "prompt_top_log_prob_ids": np.array([[[-1], [9]]], dtype=np.int32),
        "prompt_top_log_probs": np.array([[[1.0], [-0.5]]], dtype=np.float32),
        "prompt_top_tokens": np.array([[[b""], [b"e"]]], dtype=np.object_),
    }
    server.script = [text("x", "stop", **told)]
    (delta,) = asyncio.run(collect(upstream(server), job()))
    assert delta.prompt is not None
    assert [(each.logprob, len(each.top)) for each in delta.prompt] == [
        (None, 0),
        (None, 0),
        (-2.0, 1),
    ]


@pytest.mark.parametrize("ours", [True, False])
def test_an_engine_of_ours_is_told_whose_share_it_is_and_what_is_a_probe(server, ours):
    settings = TritonSettings(name="a", address=server.urls["grpc"], priorities=ours)
    said: list[dict[str, Any]] = [{"tenant": "acme"}, {"is_probe": True}]
    for more in said:
        usual = job(Texts.of(("a",)))
        server.script = [text("a", "stop")]
        asked = replace(usual, generation=replace(usual.generation, **more))
        asyncio.run(collect(Triton(settings), asked))
    found = [
        {name: each.parameters[name] for name in ("share", "probe") if name in each.parameters}
        for each in server.received
    ]
    assert found == ([{"share": "acme"}, {"probe": True}] if ours else [{}, {}])


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"fit_max_tokens": True}, {"fit_max_tokens": [True]}),
        ({"presence_penalty": 0.5}, {"prompt_ignore_length": [2**31 - 1]}),
        ({"frequency_penalty": -1.0}, {"prompt_ignore_length": [2**31 - 1]}),
        ({"repetition_penalty": 1.5}, {}),
    ],
)
@pytest.mark.parametrize("ours", [True, False])
def test_an_engine_of_ours_fits_defaults_and_counts_the_answer_alone(
    server, parameters, said, ours
):
    settings = TritonSettings(name="a", address=server.urls["grpc"], priorities=ours)
    server.script = [text("a", "stop")]
    asked = job(Texts.of(("a",)), GenerationParameters(max_tokens=9, **parameters))
    asyncio.run(collect(Triton(settings), asked))
    inputs = server.received[0].inputs
    found = {
        name: inputs[name].reshape(-1).tolist()
        for name in ("fit_max_tokens", "prompt_ignore_length", "priority")
        if name in inputs
    }
    assert found == ({**said, "priority": [5]} if ours else {})


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (
            Failure("INVALID_ARGUMENT", "top_p is 2; it must be between 0 and 1"),
            InvalidRequestError,
        ),
        (Failure("UNAVAILABLE", "the queue is full: 64 sequences wait"), ServerBusyError),
        (Failure("DEADLINE_EXCEEDED", "the request's timeout expired"), DeadlineExceededError),
        (Failure(None, "Exceeds maximum queue size"), ServerBusyError),
        (Failure(None, "Server is stopping"), ServerUnavailableError),
        (Failure(None, "Stub process 'tensorrt_llm_0_0' is not healthy."), ServerBrokenError),
        (Failure("INTERNAL", "the engine failed"), GenerationError),
    ],
)
def test_failures_are_told_apart_however_soon_they_come(
    server: FakeTriton, failure: Failure, kind: type[ClientError]
) -> None:
    """Python's gRPC loses the status of some calls that end while they are being written."""
    server.script = [failure]

    async def ask_many() -> list[Any]:
        triton = upstream(server)
        asked = (collect(triton, job(request_id=str(i))) for i in range(100))
        return await asyncio.gather(*asked, return_exceptions=True)

    assert {type(error) for error in asyncio.run(ask_many())} == {kind}


def test_a_deadline_is_the_request_s_own(server):
    server.script = [HANG, text("late", "stop")]
    with pytest.raises(RequestTimeoutError):
        asyncio.run(collect(upstream(server), job(timeout_s=0.1)))


def test_a_server_that_is_silent_can_be_left_at_any_time(server):
    """Before the first response gRPC waits in a task of its own, which hides who cancelled."""
    server.script = [HANG, text("late", "stop")]

    async def leave() -> bool:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(cancel_when_asked, scope)
                await collect(upstream(server), job())
        return scope.cancelled_caught

    async def cancel_when_asked(scope: anyio.CancelScope) -> None:
        while not server.received:
            await anyio.sleep(0.005)
        scope.cancel()

    assert asyncio.run(leave())
    assert server.cancelled.wait(30)


def test_the_tokens_of_a_prompt_are_asked_of_the_first_step(server):
    server.script = [{"INPUT_ID": np.array([[5, 6]], dtype=np.int32)}]
    chat = Chat.of([{"role": "user", "content": "Où ?"}])
    assert asyncio.run(upstream(server).tokens(job(chat))) == [5, 6]
    (received,) = server.received
    assert received.inputs["MESSAGES"].item() == chat.encoded
    assert received.inputs["QUERY"].item() == b""
    assert received.inputs["REQUEST_OUTPUT_LEN"].item() == 16


def test_the_text_of_tokens_is_asked_of_the_last_step(server):
    server.script = [{"OUTPUT": np.array([b"Hi"], dtype=np.object_)}]
    assert asyncio.run(upstream(server).text(job(Tokens.of([[5, 6]])))) == "Hi"
    (received,) = server.received
    assert received.inputs["TOKENS_BATCH"].tolist() == [[[5, 6]]]
    assert received.inputs["SEQUENCE_LENGTH"].tolist() == [[2]]


def test_what_the_first_step_refuses_is_refused(server):
    server.script = [Failure("INVALID_ARGUMENT", "text_input is empty", "text_input")]
    with pytest.raises(InvalidRequestError, match="text_input is empty"):
        asyncio.run(upstream(server).tokens(job(Texts.of([""]))))


@pytest.mark.parametrize(("special", "said"), [(True, {}), (False, {"add_special_tokens": False})])
def test_special_tokens_are_left_out_where_that_is_said(server, special, said):
    sent(server, job(Texts.of(["a"], special_tokens=special)))
    (received,) = server.received
    assert {name: received.parameters.get(name) for name in said} == said
    assert ("add_special_tokens" in received.parameters) == (not special)


def noted(monkeypatch: pytest.MonkeyPatch, place: Any, name: str) -> list[bool]:
    """Whether each call of a function is made in the event loop's thread."""
    calls: list[bool] = []
    real = getattr(place, name)

    def call(*arguments: Any) -> Any:
        calls.append(threading.current_thread() is threading.main_thread())
        return real(*arguments)

    monkeypatch.setattr(place, name, call)
    return calls


@pytest.mark.parametrize("words", [1, 100_000])
@pytest.mark.parametrize("function", ["_message", "_outputs"])
def test_what_is_large_is_written_and_read_beside_the_event_loop(
    server, monkeypatch, function, words
):
    calls = noted(monkeypatch, grpc_transport, function)
    long = "word " * words
    server.script = [text(long, "stop")]
    chat = Chat.of([{"role": "user", "content": long}])
    (delta,) = asyncio.run(collect(upstream(server), job(chat)))
    assert delta.text == long
    assert server.received[0].inputs["messages"].item() == chat.encoded
    assert calls == [words == 1]
