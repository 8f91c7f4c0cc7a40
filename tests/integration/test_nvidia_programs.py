"""What NVIDIA's own programs send to TensorRT-LLM's models, in both renderings of the repository.

The requests are those of ``inflight_batcher_llm_client.py``, ``end_to_end_grpc_client.py``,
``end_to_end_test.py`` and the ``curl`` lines of their README (TensorRT-LLM 1.2), made anew with
plain tritonclient and an HTTP library. They leave ``exclude_input_in_output`` out, as they do.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from ops.triton_process import TritonServer
from tests.integration.conftest import Server, make_repository
from tests.integration.test_cancellation import await_running

pytestmark = pytest.mark.integration

QUESTION = "What is the capital of France?"
ANSWER = "The capital of France is Paris."
CURL: dict[str, Any] = {"text_input": QUESTION, "max_tokens": 20, "bad_words": "", "stop_words": ""}
IDS = [[70, 71, 72, 73]]


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose models answer a request once."""
    folder = tmp_path_factory.mktemp("once")
    repository = make_repository(folder / "repository", "decoupled_mode=false")
    with TritonServer(repository, log=folder / "triton.log") as server:
        yield Server.of(server)


@pytest.fixture(params=["decoupled", "once"])
def either(request: pytest.FixtureRequest, triton: Server) -> Server:
    server: Server = triton if request.param == "decoupled" else request.getfixturevalue("once")
    return server


@pytest.fixture(params=["grpc", "http"])
def infer(request: pytest.FixtureRequest, once: Server) -> Any:
    """``infer`` of one protocol: a model and its inputs, to its outputs."""
    if request.param == "http":
        yield lambda model, **inputs: HttpResult.of(once, model, inputs)
        return
    with grpcclient.InferenceServerClient(once.grpc_url) as client:
        yield lambda model, **inputs: client.infer(model, tensors(inputs), request_id="1")


class HttpResult:
    """The answer to ``POST /v2/models/…/infer``, read as tritonclient's is."""

    def __init__(self, outputs: list[dict[str, Any]]) -> None:
        self._outputs = {each["name"]: each for each in outputs}

    @classmethod
    def of(cls, server: Server, model: str, inputs: dict[str, Any]) -> HttpResult:
        body = [
            {
                "name": name,
                "shape": list(array.shape),
                "datatype": np_to_triton_dtype(array.dtype),
                "data": array.reshape(-1).tolist(),
            }
            for name, array in inputs.items()
        ]
        url = f"{server.http_url}/v2/models/{model}/infer"
        answer = httpx.post(url, json={"id": "1", "inputs": body}, timeout=60)
        if answer.status_code != 200:
            raise InferenceServerException(answer.json()["error"])
        return cls(answer.json()["outputs"])

    def as_numpy(self, name: str) -> Any:
        each = self._outputs[name]
        data = each["data"]
        if each["datatype"] == "BYTES":
            data = np.array([text.encode() for text in data], dtype=object)
        kind: Any = {"INT32": np.int32, "FP32": np.float32, "BYTES": object}[each["datatype"]]
        return np.array(data, dtype=kind).reshape(each["shape"])


def tensors(inputs: dict[str, Any]) -> list[Any]:
    made = []
    for name, array in inputs.items():
        each = grpcclient.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        each.set_data_from_numpy(array)
        made.append(each)
    return made


def texts(*values: str) -> np.ndarray[Any, Any]:
    return np.array([list(values)], dtype=object)


def int32(*values: int) -> np.ndarray[Any, Any]:
    return np.array([list(values)], dtype=np.int32)


def end_to_end(**more: Any) -> dict[str, Any]:
    """What ``end_to_end_grpc_client.py`` sends where it is told nothing but a prompt."""
    return {
        "text_input": texts(QUESTION),
        "max_tokens": int32(20),
        "stream": np.array([[False]]),
        "beam_width": int32(1),
        "temperature": np.array([[1.0]], dtype=np.float32),
        **more,
    }


def core(**more: Any) -> dict[str, Any]:
    """What ``inflight_batcher_llm_client.py`` sends where it is told nothing but tokens."""
    return {
        "input_ids": np.array(IDS, dtype=np.int32),
        "input_lengths": int32(len(IDS[0])),
        "request_output_len": int32(8),
        "beam_width": int32(1),
        "temperature": np.array([[1.0]], dtype=np.float32),
        "streaming": np.array([[False]]),
        "end_id": int32(-1),
        "pad_id": int32(0),
        "runtime_top_k": int32(1),
        "runtime_top_p": np.array([[0.0]], dtype=np.float32),
        **more,
    }


def streamed(
    server: Server, model: str, inputs: dict[str, Any], outputs: list[str] | None = None
) -> list[Any]:
    """A stream of one request, closed at once as those programs do; then what came."""
    came: queue.Queue[Any] = queue.Queue()
    asked = None if outputs is None else [grpcclient.InferRequestedOutput(o) for o in outputs]
    with grpcclient.InferenceServerClient(server.grpc_url) as client:
        client.start_stream(lambda result, error: came.put(error or result))
        client.async_stream_infer(model, tensors(inputs), outputs=asked, request_id="1")
        client.stop_stream()
    return [came.get(block=False) for _ in range(came.qsize())]


def called_back(
    server: Server,
    model: str,
    *requests: dict[str, Any],
    request_id: str = "1",
    between: Callable[[], None] = lambda: None,
) -> list[Any]:
    """Requests by ``async_infer``, one after the other, and what each had for an answer.

    They may arrive in another order, unless something is awaited between them.
    """
    came: queue.Queue[Any] = queue.Queue()
    with grpcclient.InferenceServerClient(server.grpc_url) as client:
        for place, inputs in enumerate(requests):
            if place:
                between()
            client.async_infer(
                model,
                tensors(inputs),
                callback=lambda result, error: came.put(error or result),
                request_id=request_id,
                parameters={"Streaming": False},
            )
        return [came.get(timeout=60) for _ in requests]


def test_the_curl_line_of_their_readme(either: Server) -> None:
    answer = httpx.post(f"{either.http_url}/v2/models/ensemble/generate", json=CURL)
    assert answer.status_code == 200
    assert answer.json()["text_output"] == QUESTION + ANSWER


def test_the_curl_line_of_a_stream(triton: Server) -> None:
    url = f"{triton.http_url}/v2/models/ensemble/generate_stream"
    answer = httpx.post(url, json={**CURL, "stream": True})
    assert answer.status_code == 200
    assert answer.text.startswith("data: ")
    assert QUESTION not in answer.text  # as TensorRT-LLM's: never while it streams


def test_a_client_that_streams_one_response(either: Server) -> None:
    (result,) = streamed(either, "ensemble", end_to_end(), ["text_output"])
    assert result.as_numpy("text_output").tolist() == [(QUESTION + ANSWER).encode()]
    inputs = end_to_end(exclude_input_in_output=np.array([[True]]))
    (result,) = streamed(either, "ensemble", inputs)
    assert result.as_numpy("text_output").tolist() == [ANSWER.encode()]


def test_a_client_that_asks_for_log_probabilities(either: Server) -> None:
    inputs = end_to_end(return_log_probs=np.array([[True]]))
    names = ["text_output", "cum_log_probs", "output_log_probs"]
    (result,) = streamed(either, "ensemble", inputs, names)
    assert result.as_numpy("cum_log_probs").shape == (1, 1)
    assert result.as_numpy("output_log_probs").shape[:2] == (1, 1)


def test_a_client_that_streams(triton: Server) -> None:
    inputs = end_to_end(stream=np.array([[True]]))
    results = streamed(triton, "ensemble", inputs, ["text_output"])
    text = b"".join(result.as_numpy("text_output")[0] for result in results)
    assert text.decode() == ANSWER


def test_the_engine_alone_streams(triton: Server) -> None:
    results = streamed(triton, "tensorrt_llm", core(streaming=np.array([[True]])))
    pieces = [result.as_numpy("output_ids") for result in results]
    assert sum(piece.shape[2] for piece in pieces if piece is not None) == 8


def test_infer_asks_the_ensemble(infer: Any) -> None:
    result = infer(
        "ensemble",
        text_input=texts(QUESTION),
        max_tokens=int32(20),
        bad_words=texts(""),
        stop_words=texts(""),
    )
    assert result.as_numpy("text_output").tolist() == [(QUESTION + ANSWER).encode()]


def test_infer_asks_each_step_by_itself(infer: Any) -> None:
    """``end_to_end_test.py``: the steps one after the other are the ensemble."""
    words = texts("")
    first = infer(
        "preprocessing",
        QUERY=texts(QUESTION),
        BAD_WORDS_DICT=words,
        STOP_WORDS_DICT=words,
        REQUEST_OUTPUT_LEN=int32(20),
    )
    second = infer(
        "tensorrt_llm",
        input_ids=first.as_numpy("INPUT_ID"),
        decoder_input_ids=first.as_numpy("DECODER_INPUT_ID"),
        input_lengths=first.as_numpy("REQUEST_INPUT_LEN"),
        request_output_len=first.as_numpy("REQUEST_OUTPUT_LEN"),
        end_id=first.as_numpy("OUT_END_ID"),
        pad_id=first.as_numpy("OUT_PAD_ID"),
    )
    third = infer(
        "postprocessing",
        TOKENS_BATCH=second.as_numpy("output_ids"),
        SEQUENCE_LENGTH=second.as_numpy("sequence_length"),
    )
    whole = infer("ensemble", text_input=texts(QUESTION), max_tokens=int32(20))
    assert third.as_numpy("OUTPUT").tolist() == whole.as_numpy("text_output").tolist()
    assert whole.as_numpy("text_output").tolist() == [(QUESTION + ANSWER).encode()]


def test_the_engine_alone_answers_with_the_prompt(once: Server) -> None:
    (result,) = called_back(once, "tensorrt_llm", core())
    ids = result.as_numpy("output_ids")
    assert ids.shape == (1, 1, len(IDS[0]) + 8)
    assert ids[0, 0, : len(IDS[0])].tolist() == IDS[0]
    assert result.as_numpy("sequence_length").tolist() == [[len(IDS[0]) + 8]]


def test_many_are_under_way_at_once(once: Server) -> None:
    with once.braked(0.05):  # one after the other they would take a minute
        results = called_back(once, "tensorrt_llm", *[core(request_output_len=int32(20))] * 64)
    assert {result.as_numpy("output_ids").shape for result in results} == {(1, 1, 24)}


def test_a_stop_request_ends_another(once: Server) -> None:
    """``inflight_batcher_llm_client.py --stop-after-ms``."""
    stop = {
        "input_ids": int32(0),
        "input_lengths": int32(0),
        "request_output_len": int32(0),
        "stop": np.array([[True]]),
    }
    with once.braked():
        results = called_back(
            once,
            "tensorrt_llm",
            core(request_output_len=int32(600)),
            stop,
            request_id="77",
            between=lambda: await_running(once),
        )
    ids = [result.as_numpy("output_ids") for result in results]
    assert sum(each is None for each in ids) == 1
    assert max(each.shape[2] for each in ids if each is not None) < 600


@pytest.mark.parametrize(
    ("inputs", "name"),
    [
        ({"draft_input_ids": int32(5, 6)}, "draft_input_ids"),
        ({"lookahead_window_size": int32(7)}, "lookahead_window_size"),
        ({"lora_task_id": np.array([[3]], dtype=np.uint64)}, "lora_task_id"),
        ({"prompt_vocab_size": int32(8)}, "prompt_vocab_size"),
        ({"retention_decode_priority": int32(50)}, "retention_decode_priority"),
        ({"guided_decoding_guide_type": texts("xml")}, "guided_decoding_guide_type"),
        ({"return_context_logits": np.array([[True]])}, "return_context_logits"),
        ({"beam_width": int32(2)}, "beam_width"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_engine_does_not_do_is_refused_by_name(
    either: Server, inputs: dict[str, Any], name: str
) -> None:
    (error,) = streamed(either, "tensorrt_llm", core(**inputs))
    assert isinstance(error, InferenceServerException)
    assert f"[INVALID_ARGUMENT param={name}]" in str(error)


def test_what_carries_nothing_is_taken(either: Server) -> None:
    inputs = core(
        decoder_input_ids=int32(1),
        prompt_table_extra_ids=np.zeros((1, 4), dtype=np.uint64),
        return_context_logits=np.array([[False]]),
        draft_input_ids=np.zeros((1, 0), dtype=np.int32),
    )
    (result,) = streamed(either, "tensorrt_llm", inputs)
    assert result.as_numpy("output_ids").shape == (1, 1, 12)


def test_a_stream_needs_decoupled_mode(once: Server, infer: Any) -> None:
    said = r"stream is true; streaming is only supported in decoupled mode"
    with pytest.raises(InferenceServerException, match=said):
        infer("ensemble", **end_to_end(stream=np.array([[True]])))
    url = f"{once.http_url}/v2/models/ensemble/generate"
    answer = httpx.post(url, json={**CURL, "stream": True})
    assert answer.status_code == 400
    assert "decoupled_mode=false" in answer.json()["error"]
    (error,) = streamed(once, "tensorrt_llm", core(streaming=np.array([[True]])))
    assert "streaming is true; streaming is only supported in decoupled mode" in str(error)


def test_one_request_has_one_answer_there(infer: Any) -> None:
    with pytest.raises(InferenceServerException, match="num_return_sequences is 2"):
        infer("ensemble", **end_to_end(num_return_sequences=int32(2)))
    with pytest.raises(InferenceServerException, match="the request has 2 prompts"):
        infer("ensemble", **{name: np.repeat(v, 2, 0) for name, v in end_to_end().items()})


def test_infer_is_not_for_a_decoupled_model(triton: Server) -> None:
    with (
        grpcclient.InferenceServerClient(triton.grpc_url) as client,
        pytest.raises(InferenceServerException, match="decoupled"),
    ):
        client.infer("ensemble", tensors(end_to_end()))


def test_stop_texts_and_policies_hold_where_nothing_streams(infer: Any) -> None:
    said = infer("ensemble", **end_to_end(exclude_input_in_output=np.array([[True]])))
    inputs = end_to_end(stop_words=texts(" France"), exclude_input_in_output=np.array([[True]]))
    stopped = infer("ensemble", **inputs)
    text = said.as_numpy("text_output")[0].decode()
    assert stopped.as_numpy("text_output")[0].decode() == text[: text.index(" France") + 7]
    assert stopped.as_numpy("finish_reason").item() == b"stop"
    card = infer(
        "ensemble", text_input=texts("How do I contact Rosa Torres?"), max_tokens=int32(96)
    )
    assert "[EMAIL]" in card.as_numpy("text_output")[0].decode()


def test_refusals_kill_nothing(once: Server) -> None:
    url = f"{once.http_url}/v2/models/ensemble/generate"
    wrong: list[dict[str, Any]] = [
        {"stream": True},
        {"max_tokens": 0},
        {"top_p": 3.0},
        {"text_input": ""},
        {},
    ]

    def ask(index: int) -> int:
        return httpx.post(url, json=CURL | wrong[index % 5], timeout=60).status_code

    with ThreadPoolExecutor(8) as threads:
        said = list(threads.map(ask, range(400)))
    assert said == [400, 400, 400, 400, 200] * 80
