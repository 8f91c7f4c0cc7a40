"""The clients against a fake Triton, each case sync and async, over gRPC and HTTP."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from threading import Thread
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clients import (
    AsyncClient,
    Client,
    ClientError,
    DeadlineExceededError,
    GenerationError,
    GenerationOptions,
    InvalidRequestError,
    PerfMetrics,
    Piece,
    Result,
    ServerUnavailableError,
    Verdict,
)
from tests.clients.conftest import Asker
from tests.clients.fakes import HANG, Failure, FakeTriton, int32, text

LONG = [step for index in range(6000) for step in (text(f"{index} "), 0.01)]
"""A minute: whoever is to leave it early has left by then."""


def test_generate_returns_the_answer(asker: Asker) -> None:
    assert asker.generate("Is this a trireme?") == Result(text="yes", finish_reason="stop")


def test_stream_yields_the_pieces(asker: Asker, triton: FakeTriton) -> None:
    triton.script = [text("tri"), text(""), text("rème", "length")]
    assert asker.pieces("?") == [
        Piece(text="tri"),
        Piece(text=""),
        Piece(text="rème", finish_reason="length"),
    ]


def test_only_the_stream_asks_for_one(asker: Asker, triton: FakeTriton) -> None:
    asker.generate("?")
    asker.pieces("?")
    assert ["stream" in request.inputs for request in triton.received] == [False, True]


VERDICTS = """[
    {"rule": "pii", "kind": "email", "action": "redact", "side": "output", "start": 3, "end": 9},
    {"rule": "pii", "kind": "phone", "action": "flag", "side": "input", "start": 0, "end": 4,
     "message": 1, "of_a_later_version": true}
]"""


def strings(texts: list[str]) -> NDArray[Any]:
    return np.array([text.encode() for text in texts], dtype=np.object_)


def test_reports_what_was_asked_for(asker: Asker, triton: FakeTriton) -> None:
    times = {
        "arrival_time_ns": 1_000_000_000,
        "first_scheduled_time_ns": 1_250_000_000,
        "first_token_time_ns": 1_500_000_000,
        "last_token_time_ns": 3_500_000_000,
    }
    triton.script = [
        text(
            "yes",
            "stop",
            num_input_tokens=int32(7),
            num_output_tokens=int32(2),
            cum_log_probs=np.array([[-0.75]], dtype=np.float32),
            output_log_probs=np.array([[[-0.5, -0.25]]], dtype=np.float32),
            output_tokens=strings(["y", "es"]).reshape(1, 1, 2),
            top_log_probs=np.array([[[[-0.5, -2], [-0.25, -3]]]], dtype=np.float32),
            top_log_prob_ids=np.array([[[[7, 9], [8, 5]]]], dtype=np.int32),
            top_tokens=strings(["y", "n", "es", "bytes:\\xf0"]).reshape(1, 1, 2, 2),
            safety_verdicts=strings([VERDICTS]),
            kv_cache_reused_blocks=int32(0),
            **{name: np.array([[value]], dtype=np.int64) for name, value in times.items()},
        )
    ]
    result = asker.generate("?", return_log_probs=True, return_perf_metrics=True)
    assert result == Result(
        text="yes",
        finish_reason="stop",
        num_input_tokens=7,
        num_output_tokens=2,
        cum_log_prob=-0.75,
        tokens=("y", "es"),
        log_probs=(-0.5, -0.25),
        top_tokens=(("y", "n"), ("es", "bytes:\\xf0")),
        top_log_probs=(((7, -0.5), (9, -2)), ((8, -0.25), (5, -3))),
        verdicts=(
            Verdict("pii", "email", "redact", "output", 3, 9),
            Verdict("pii", "phone", "flag", "input", 0, 4, message=1),
        ),
        perf_metrics=PerfMetrics(**times, kv_cache_reused_blocks=0),
    )
    assert result.perf_metrics is not None
    assert result.perf_metrics.queue_s == 0.25
    assert result.perf_metrics.time_to_first_token_s == 0.5
    assert result.perf_metrics.generation_s == 2


def test_generate_all_sorts_the_answers(asker: Asker, triton: FakeTriton) -> None:
    triton.script = [
        text("second", "stop", sequence_index=int32(1)),
        text("first", "length", sequence_index=int32(0)),
    ]
    results = asker.generate_all("?", num_return_sequences=2)
    assert [result.text for result in results] == ["first", "second"]


def test_generate_returns_one_answer_only(asker: Asker, triton: FakeTriton) -> None:
    with pytest.raises(InvalidRequestError, match="generate_all") as caught:
        asker.generate("?", num_return_sequences=2)
    assert caught.value.input_name == "num_return_sequences"
    assert not triton.received


def test_request_id_travels(asker: Asker, triton: FakeTriton) -> None:
    asker.generate("?", request_id="r-1")
    assert triton.received[0].request_id == "r-1"


def test_keywords_win_over_options(asker: Asker, triton: FakeTriton) -> None:
    asker.generate("?", options=GenerationOptions(max_tokens=5, seed=1), seed=2)
    inputs = triton.received[0].inputs
    assert {name: np.ravel(value).tolist() for name, value in inputs.items()} == {
        "text_input": ["?"] if asker.protocol == "http" else [b"?"],
        "exclude_input_in_output": [True],
        "max_tokens": [5],
        "seed": [2],
    }


REFUSAL = "temperature is -1; it must be 0 or more"


@pytest.mark.parametrize(
    ("failure", "kind", "message"),
    [
        (Failure("INVALID_ARGUMENT", REFUSAL), InvalidRequestError, REFUSAL),
        (
            Failure(None, f"in ensemble 'ensemble', [INVALID_ARGUMENT] {REFUSAL}"),
            InvalidRequestError,
            REFUSAL,
        ),
        (Failure("INTERNAL", "the engine failed"), GenerationError, "the engine failed"),
        (
            Failure(None, "Request for unknown model: 'ensemble' is not found"),
            ServerUnavailableError,
            "does not have the model",
        ),
    ],
)
def test_errors_of_the_server(
    asker: Asker, triton: FakeTriton, failure: Failure, kind: type[ClientError], message: str
) -> None:
    triton.script = [failure]
    for call in (asker.generate, asker.pieces):
        with pytest.raises(kind, match=message):
            call("?")


def test_triton_is_not_asked_for_the_errors_that_it_dies_of(
    asker: Asker, triton: FakeTriton
) -> None:
    triton.script = [Failure("INVALID_ARGUMENT", REFUSAL)]
    with pytest.raises(InvalidRequestError):
        asker.generate("?")
    assert "triton_grpc_error" not in triton.received[0].headers


def test_the_input_to_blame_is_named(asker: Asker, triton: FakeTriton) -> None:
    triton.script = [Failure("INVALID_ARGUMENT", REFUSAL, "temperature")]
    with pytest.raises(InvalidRequestError) as caught:
        asker.generate("?")
    assert caught.value.input_name == "temperature"


def test_failure_in_the_middle(asker: Asker, triton: FakeTriton) -> None:
    triton.script = [text("well, "), Failure("INTERNAL", "the engine failed")]
    with pytest.raises(GenerationError, match="the engine failed"):
        asker.pieces("?")


def test_response_without_text(asker: Asker, triton: FakeTriton) -> None:
    triton.script = [{"num_input_tokens": int32(1)}]
    with pytest.raises(GenerationError, match="text_output"):
        asker.generate("?")


def test_deadline(asker: Asker, triton: FakeTriton) -> None:
    triton.script = LONG
    for timeout_s in (0.2, 2, 20):  # a slow machine may not have asked when the first is over
        with pytest.raises(DeadlineExceededError):
            asker.pieces("?", timeout_s=timeout_s)
        if triton.received:
            break
    assert triton.cancelled.wait(30)


def test_deadline_of_a_silent_server(asker: Asker, triton: FakeTriton) -> None:
    triton.script = [HANG, text("late", "stop")]
    with pytest.raises(TimeoutError):
        asker.generate("?", timeout_s=0.2)


def test_leaving_a_stream_cancels_the_request(asker: Asker, triton: FakeTriton) -> None:
    triton.script = LONG
    assert len(asker.pieces("?", stop_after=2)) == 2
    assert triton.cancelled.wait(30)


def test_a_complete_stream_cancels_nothing(asker: Asker, triton: FakeTriton) -> None:
    triton.script = [text("a"), text("b", "stop")]
    asker.pieces("?")
    assert not triton.cancelled.wait(0.1)


def test_cancelled_task_cancels_the_request(triton: FakeTriton, protocol) -> None:
    triton.script = LONG

    async def give_up() -> None:
        async with AsyncClient(triton.urls[protocol], protocol=protocol) as client:
            begun = asyncio.Event()

            async def read() -> None:
                async for _ in client.stream("?"):
                    begun.set()

            reader = asyncio.create_task(read())
            await begun.wait()
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader

    asyncio.run(give_up())
    assert triton.cancelled.wait(30)


@pytest.fixture
def nowhere() -> str:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{unused.getsockname()[1]}"


def test_no_server(asker: Asker, nowhere: str) -> None:
    with pytest.raises(ServerUnavailableError, match="make serve") as caught:
        replace(asker, url=nowhere).generate("?")
    assert caught.value.address == nowhere
    assert nowhere in str(caught.value)


def test_another_kind_of_server(asker: Asker, triton: FakeTriton) -> None:
    other = {"grpc": "http", "http": "grpc"}[asker.protocol]
    with pytest.raises(ServerUnavailableError):
        replace(asker, url=triton.urls[other]).generate("?")


def test_readiness(asker: Asker, triton: FakeTriton, nowhere: str) -> None:
    assert asker.is_ready()
    asker.wait_until_ready(30)
    triton.ready = False
    assert not asker.is_ready()
    assert not replace(asker, url=nowhere).is_ready()
    with pytest.raises(ServerUnavailableError, match="was not ready after"):
        asker.wait_until_ready(0.1)


def test_threads_share_a_client(triton: FakeTriton, protocol) -> None:
    texts = []
    with Client(triton.urls[protocol], protocol=protocol) as client:
        threads = [Thread(target=lambda: texts.append(client.generate("?").text)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert texts == ["yes"] * 8


def test_addresses() -> None:
    assert Client().url == "127.0.0.1:8001"
    assert Client(protocol="http").url == "127.0.0.1:8000"
    with pytest.raises(ValueError, match="without a scheme"):
        Client("http://localhost:8001")
    with pytest.raises(ValueError, match="'grpc' or 'http'"):
        Client(protocol="carrier pigeon")  # type: ignore[arg-type]
