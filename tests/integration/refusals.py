"""Every way in which a request is refused, by every way in which it can be sent.

Plain gRPC and HTTP, as somebody else's client would send it: what must hold is that Triton lives.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import grpc  # type: ignore[import-untyped]
import httpx
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import np_to_triton_dtype, serialize_byte_tensor

from tests.integration.speaker import DTYPES

_BASE = {"text_input": "Count from 17 to 40.", "max_tokens": 24}
GOOD = {**_BASE, "exclude_input_in_output": True}
NAN = float("nan")

_DTYPES = DTYPES | {
    "messages": object,
    "tools": object,
    "chat_template_kwargs": object,
    "prompt_table_extra_id": np.uint64,
    "QUERY": object,
    "MESSAGES": object,
    "sequence_id": np.uint64,
}


@dataclass(frozen=True)
class Refusal:
    """A request that is refused.

    Attributes:
        name: What is wrong with it.
        words: What the error says, among other things.
        inputs: Its inputs, in place of those of a good request; an array is sent as it is.
        parameters: Its request parameters.
        model: Who is asked.
        json: Whether it can be said in JSON.
    """

    name: str
    words: str
    inputs: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    model: str = "ensemble"
    json: bool = True


def _chat(name: str, words: str, messages: str = '[{"role": "user", "content": "a"}]', **more: Any):
    return Refusal(name, words, {"text_input": "", "messages": messages, **more})


PREPROCESSING = [
    Refusal("empty prompt", "text_input is empty", {"text_input": ""}),
    Refusal("text that is none", "not valid UTF-8", {"text_input": b"ab\xff"}, json=False),
    Refusal("words that are none", "bad_words is not valid", {"bad_words": [b"\xc3"]}, json=False),
    _chat("messages that are no JSON", "messages is not JSON", "{"),
    _chat("no messages", "messages: list should have at least 1 item", "[]"),
    _chat("messages of another shape", "messages", '[{"content": "a"}]'),
    _chat("tools that are no JSON", "tools is not JSON", tools="["),
    _chat("variables that are no JSON", "chat_template_kwargs is not", chat_template_kwargs="x"),
    _chat("template that refuses", "unknown role: judge", '[{"role": "judge", "content": "a"}]'),
    _chat("text beside messages", "must be empty beside messages", text_input="a"),
    Refusal("tools without messages", "need messages", {"tools": "[]"}),
    Refusal("text beside tokens", "must be empty beside prompt", {"prompt_token_ids": [5]}),
    _chat("two prompts", "are both prompts", prompt_token_ids=[5]),
    Refusal(
        "tokens past the vocabulary",
        "prompt_token_ids must be between 0 and 2047",
        {"text_input": "", "prompt_token_ids": [5, 2048]},
    ),
    Refusal(
        "tokens below it",
        "prompt_token_ids must be between 0 and 2047",
        {"text_input": "", "prompt_token_ids": [-1]},
    ),
    Refusal(
        "too many tokens",
        "prompt_token_ids has 2049 tokens",
        {"text_input": "", "prompt_token_ids": [5] * 2049},
    ),
    Refusal(
        "blocked prompt",
        "content_filter: the policy strict blocks",
        {"text_input": "My key is sk-0123456789abcdefghijklmnop"},
        {"safety_policy": "strict"},
    ),
    Refusal(
        "unknown policy", "safety_policy is 'sdandard'", parameters={"safety_policy": "sdandard"}
    ),
    Refusal("unknown template", "chat_template is 'yes'", parameters={"chat_template": "yes"}),
    Refusal("bias without weights", "must come together", {"embedding_bias_words": ["a"]}),
    Refusal(
        "bias past the vocabulary",
        "embedding_bias_ids must be between 0 and 2047",
        {"embedding_bias_ids": [99999], "embedding_bias_weights": [1.0]},
    ),
    Refusal("text for a decoder", "decoder_text_input is not", {"decoder_text_input": "a"}),
    Refusal("prompt table", "prompt_table_extra_id is not", {"prompt_table_extra_id": [1]}),
    Refusal(
        "flags that differ",
        "stream must be the same",
        {
            "text_input": np.array([["a"], ["b"]], dtype=object),
            "max_tokens": np.array([[4], [4]], dtype=np.int32),
            "stream": np.array([[True], [False]]),
        },
        json=False,
    ),
]

ENGINE = [
    Refusal("prompt past the context", "it can have at most 2047", {"text_input": "a b " * 3000}),
    Refusal("no tokens", "max_tokens is 0", {"max_tokens": 0}),
    Refusal("tokens past the context", "has room for at most", {"max_tokens": 2048}),
    Refusal("negative temperature", "temperature is -0.5", {"temperature": -0.5}),
    Refusal("no temperature", "temperature is nan", {"temperature": NAN}, json=False),
    Refusal("negative top_k", "top_k is -1", {"top_k": -1}),
    Refusal("top_p above 1", "top_p is 1.5", {"top_p": 1.5}),
    Refusal("min_p above 1", "min_p is 2", {"min_p": 2.0}),
    Refusal("no repetition penalty", "repetition_penalty is 0", {"repetition_penalty": 0.0}),
    Refusal("endless penalty", "presence_penalty is inf", {"presence_penalty": np.inf}, json=False),
    Refusal("min above max", "min_tokens is 99", {"min_tokens": 99}),
    Refusal("many likely ones", "num_top_log_probs is 99", {"num_top_log_probs": 99}),
    Refusal("beams", "beam_width is above 1", {"beam_width": 4}),
    Refusal("many sequences", "num_return_sequences is 65", {"num_return_sequences": 65}),
    Refusal("no sequence", "num_return_sequences is 0", {"num_return_sequences": 0}),
    Refusal("priority", "priority is 9", {"priority": 9}),
    Refusal("logits", "context logits is not supported", {"return_context_logits": True}),
    Refusal("adapter", "LoRA is not supported", {"lora_task_id": 1}),
    Refusal("grammar", "needs a guided_decoding_guide_type", {"guided_decoding_guide": "{}"}),
    Refusal(
        "bias that is no number",
        "not a finite number",
        {"embedding_bias_ids": [5], "embedding_bias_weights": [NAN]},
        json=False,
    ),
    Refusal("full queue", "the queue is full", {"num_return_sequences": 64}),
    Refusal(
        "time that is up",
        "[DEADLINE_EXCEEDED]",
        {"end_id": -1, "max_tokens": 1500},
        {"timeout": 1000},
    ),
]

_ENGINE_INPUTS = {"input_ids": [5], "input_lengths": 1, "request_output_len": 4}
_PIECE = {
    "TOKENS_BATCH": np.array([[[5]]], dtype=np.int32),
    "SEQUENCE_LENGTH": np.array([[1]], dtype=np.int32),
}

MODELS = [
    Refusal(
        "no tokens in the prompt",
        "the prompt is empty",
        {**_ENGINE_INPUTS, "input_ids": np.zeros((1, 0), np.int32), "input_lengths": 0},
        model="tensorrt_llm",
        json=False,
    ),
    Refusal(
        "tokens of another vocabulary",
        "outside the vocabulary",
        {**_ENGINE_INPUTS, "input_ids": [999999]},
        model="tensorrt_llm",
    ),
    Refusal(
        "more tokens than there are",
        "input_lengths is 7",
        {**_ENGINE_INPUTS, "input_lengths": 7},
        model="tensorrt_llm",
    ),
    Refusal(
        "words of another shape",
        "offsets must rise",
        {**_ENGINE_INPUTS, "stop_words_list": np.array([[[5, 5], [9, 1]]], dtype=np.int32)},
        model="tensorrt_llm",
        json=False,
    ),
    Refusal(
        "a stop that names nothing",
        "stop needs a request id",
        {**_ENGINE_INPUTS, "stop": True},
        model="tensorrt_llm",
    ),
    Refusal(
        "more lengths than rows",
        "SEQUENCE_LENGTH has 3 values",
        {**_PIECE, "SEQUENCE_LENGTH": np.array([[1, 1, 1]], dtype=np.int32)},
        model="postprocessing",
        json=False,
    ),
    Refusal(
        "empty query",
        "text_input is empty",
        {"QUERY": "", "REQUEST_OUTPUT_LEN": 4},
        model="preprocessing",
    ),
    Refusal(
        "query and messages",
        "must be empty beside",
        {"QUERY": "a", "MESSAGES": '[{"role": "user", "content": "a"}]', "REQUEST_OUTPUT_LEN": 4},
        model="preprocessing",
    ),
]

TRITON = [
    Refusal("another type", "max_tokens", {"max_tokens": np.array([[4]], np.int64)}, json=False),
    Refusal(
        "another shape", "max_tokens", {"max_tokens": np.array([[4, 4]], np.int32)}, json=False
    ),
    Refusal("another rank", "stream", {"stream": np.array([True])}, json=False),
    Refusal("no rows", "max_tokens", {"max_tokens": np.zeros((0, 1), np.int32)}, json=False),
    Refusal(
        "no rows for the engine",
        "byte size mismatch",
        {name: np.zeros((0, 1), np.int32) for name in _ENGINE_INPUTS if name != "input_ids"},
        model="tensorrt_llm",
        json=False,
    ),
    Refusal("rows that differ", "batch size", {"seed": np.zeros((2, 1), np.uint64)}, json=False),
    Refusal("an input too many", "nonsense", {"nonsense": 4}, json=False),
    Refusal("a priority that is a text", "priority", parameters={"priority": "x"}, json=False),
    Refusal("another model", "unknown model", model="ensembel"),
    Refusal(
        "too many rows",
        "batch-size must be",
        {
            "text_input": np.full((4096, 1), "a", object),
            "max_tokens": np.ones((4096, 1), np.int32),
        },
        json=False,
    ),
]

REFUSALS = [*PREPROCESSING, *ENGINE, *MODELS, *TRITON]
assert len({refusal.name for refusal in REFUSALS}) == len(REFUSALS)


_PARAMETERS: dict[type, str] = {bool: "bool_param", int: "int64_param", str: "string_param"}


def message(
    inputs: dict[str, Any], model: str = "ensemble", parameters: dict[str, Any] | None = None
) -> Any:
    """A request over gRPC."""
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, value in (parameters or {}).items():
        setattr(request.parameters[name], _PARAMETERS[type(value)], value)
    for name, values in inputs.items():
        array = values if isinstance(values, np.ndarray) else _array(name, values)
        datatype = np_to_triton_dtype(array.dtype)
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        raw = serialize_byte_tensor(array).item() if datatype == "BYTES" else array.tobytes()
        request.raw_input_contents.append(raw)
    return request


def _array(name: str, values: Any) -> np.ndarray[Any, Any]:
    dtype = _DTYPES.get(name) or (bool if isinstance(values, bool) else np.int32)
    return np.array(values, dtype=dtype).reshape(1, -1)


def body(inputs: dict[str, Any], parameters: dict[str, Any] | None = None) -> dict[str, Any]:
    """A request of Triton's generate endpoints."""
    single = {k: v[0] if isinstance(v, list) and len(v) == 1 else v for k, v in inputs.items()}
    return {**single, **({"parameters": parameters} if parameters else {})}


class Ways:
    """A client of one server, by every way; each answers with the text, or raises `Refused`."""

    def __init__(self, grpc_address: str, http_address: str) -> None:
        self._channel = grpc.aio.insecure_channel(grpc_address)
        kinds: dict[str, Any] = {
            "request_serializer": service_pb2.ModelInferRequest.SerializeToString,
            "response_deserializer": service_pb2.ModelStreamInferResponse.FromString,
        }
        path = "/inference.GRPCInferenceService/ModelStreamInfer"
        self._once = self._channel.unary_stream(path, **kinds)
        self._open = self._channel.stream_stream(path, **kinds)
        self._unary = service_pb2_grpc.GRPCInferenceServiceStub(self._channel).ModelInfer
        self._http = httpx.AsyncClient(
            base_url=f"http://{http_address}", timeout=120, trust_env=False
        )

    async def close(self) -> None:
        await self._http.aclose()
        await self._channel.close()

    async def stream(self, model: str, inputs: Any, parameters: Any, header: bool = False) -> str:
        """A stream of one request, whose end is sent with it."""
        metadata = (("triton_grpc_error", "true"),) if header else ()
        call = self._once(message(inputs, model, parameters), timeout=120, metadata=metadata)
        try:
            return "".join([_text(response) async for response in call])
        except grpc.aio.AioRpcError as error:
            raise Refused(f"{error.code().name}: {error.details()}") from None

    async def header(self, model: str, inputs: Any, parameters: Any) -> str:
        """With the header of which Triton 2.51 dies."""
        return await self.stream(model, inputs, parameters, header=True)

    async def open_stream(self, model: str, inputs: Any, parameters: Any) -> str:
        """A stream that stays open for more, as tritonclient's are."""
        call = self._open(timeout=120)
        parameters = {**parameters, "triton_enable_empty_final_response": True}
        await call.write(message(inputs, model, parameters))
        text = ""
        while True:
            response = await call.read()
            text += _text(response, call.cancel)
            if response.infer_response.parameters["triton_final_response"].bool_param:
                await call.done_writing()
                return text

    async def unary(self, model: str, inputs: Any, parameters: Any) -> str:
        try:
            await self._unary(message(inputs, model, parameters), timeout=120)
        except grpc.aio.AioRpcError as error:
            raise Refused(f"{error.code().name}: {error.details()}") from None
        return ""

    async def generate(self, model: str, inputs: Any, parameters: Any) -> str:
        path = f"/v2/models/{model}/generate"
        response = await self._http.post(path, json=body(inputs, parameters))
        fields = response.json()
        if "error" in fields:
            raise Refused(f"{response.status_code}: {fields['error']}")
        return str(fields.get("text_output", ""))

    async def generate_stream(self, model: str, inputs: Any, parameters: Any) -> str:
        path = f"/v2/models/{model}/generate_stream"
        # To a step it would be a parameter, and the first of them refuses one that is an input.
        streams = {"stream": True} if model == "ensemble" else {}
        request = {**body(inputs, parameters), **streams}
        text = ""
        async with self._http.stream("POST", path, json=request) as response:
            async for line in response.aiter_lines():
                if line and (fields := json.loads(line.removeprefix("data: "))):
                    if "error" in fields:
                        raise Refused(f"{response.status_code}: {fields['error']}")
                    text += fields.get("text_output", "")
        return text

    async def infer(self, model: str, inputs: Any, parameters: Any) -> str:
        arrays = {name: _array(name, value) for name, value in inputs.items()}
        tensors = [
            {
                "name": name,
                "shape": array.shape,
                "datatype": np_to_triton_dtype(array.dtype),
                "data": array.reshape(-1).tolist(),
            }
            for name, array in arrays.items()
        ]
        request = {"inputs": tensors, "parameters": parameters}
        response = await self._http.post(f"/v2/models/{model}/infer", json=request)
        if response.is_error:
            raise Refused(f"{response.status_code}: {response.json()['error']}")
        return ""

    async def leave(self, model: str, inputs: Any, parameters: Any) -> None:
        """Ask, and go away at any moment, by gRPC or by HTTP."""
        after_s = random.choice([0.0, 0.001, 0.003, 0.01, 0.03])
        ask = random.choice([self.stream, self.header, self.open_stream, self.generate_stream])
        if ask == self.generate_stream and not _is_json(inputs):
            ask = self.stream
        with suppress(Refused, asyncio.TimeoutError):
            await asyncio.wait_for(ask(model, inputs, parameters), after_s)


class Refused(Exception):  # noqa: N818 - says what happened
    """What the server said."""


def _is_json(inputs: dict[str, Any]) -> bool:
    try:
        json.dumps(inputs, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def _text(response: Any, before_raising: Callable[[], Any] = lambda: None) -> str:
    if response.error_message:
        before_raising()
        raise Refused(response.error_message)
    infer = response.infer_response
    for output, raw in zip(infer.outputs, infer.raw_output_contents, strict=True):
        if output.name == "text_output":
            return str(raw[4:].decode())
    return ""


WAYS = ("stream", "header", "open_stream", "unary", "generate", "generate_stream", "infer", "leave")


def applies(refusal: Refusal, way: str) -> bool:
    """Whether a refusal can be sent so, and reaches the one who refuses it."""
    if way in ("generate", "generate_stream", "infer") and not refusal.json:
        return False
    if way in ("unary", "infer"):  # of one response: Triton itself refuses a decoupled model
        return refusal.model == "preprocessing" or refusal in TRITON or refusal in ENGINE[:3]
    return True


async def storm(ways: Ways, way: str, each: int, at_once: int, seed: int = 0) -> Counter[str]:
    """Send every refusal so many times, mixed with good requests; return what went otherwise.

    Raises nothing for a refusal that says what it should, nor for a right answer.
    """
    expected = await ways.stream("ensemble", GOOD, {})
    assert expected
    wrong: Counter[str] = Counter()
    jobs: list[Refusal | None] = [r for r in REFUSALS if applies(r, way) for _ in range(each)]
    jobs += [None] * max(len(jobs) // 8, 1)
    random.Random(seed).shuffle(jobs)
    ask: Callable[..., Awaitable[str | None]] = getattr(ways, way)

    async def send(refusal: Refusal | None) -> None:
        if refusal is None:
            kind = ways.generate_stream if way == "generate_stream" else ways.stream
            if (said := await kind("ensemble", GOOD, {})) != expected:
                wrong[f"a good request: {said!r}"] += 1
            return
        base = _BASE if refusal.model in ("ensemble", "ensembel") else {}
        try:
            answer = await ask(refusal.model, {**base, **refusal.inputs}, refusal.parameters)
        except Refused as error:
            decoupled = way in ("unary", "infer") and "decoupled transaction policy" in str(error)
            if refusal.words not in str(error) and not decoupled:
                wrong[f"{refusal.name}: {error}"[:300]] += 1
        else:
            if way != "leave":
                wrong[f"{refusal.name} was answered: {answer!r}"] += 1

    await in_parallel((send(job) for job in jobs), at_once)
    return wrong


async def in_parallel(jobs: Iterable[Awaitable[None]], at_once: int) -> None:
    """Await all, so many at a time."""
    rest = iter(jobs)

    async def work() -> None:
        for job in rest:
            await job

    await asyncio.gather(*(work() for _ in range(at_once)))
