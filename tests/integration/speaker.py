"""A client as TensorRT-LLM's own are: plain tritonclient, one gRPC stream a request.

It knows nothing of Trireme's client, so that the contract is tested from outside.
"""

from __future__ import annotations

import queue
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tritonclient.grpc as grpcclient
from tritonclient.utils import np_to_triton_dtype

DTYPES: dict[str, Any] = {
    "messages": object,
    "text_input": object,
    "max_tokens": np.int32,
    "stream": bool,
    "exclude_input_in_output": bool,
    "stop_words": object,
    "bad_words": object,
    "embedding_bias_words": object,
    "embedding_bias_weights": np.float32,
    "temperature": np.float32,
    "top_p": np.float32,
    "top_k": np.int32,
    "min_p": np.float32,
    "repetition_penalty": np.float32,
    "presence_penalty": np.float32,
    "frequency_penalty": np.float32,
    "length_penalty": np.float32,
    "seed": np.uint64,
    "lora_task_id": np.uint64,
    "guided_decoding_guide": object,
    "guided_decoding_guide_type": object,
    "decoder_text_input": object,
}


@dataclass
class Answer:
    """All responses to one request."""

    results: list[grpcclient.InferResult] = field(default_factory=list)
    error: str | None = None

    @property
    def pieces(self) -> list[bytes]:
        return [result.as_numpy("text_output")[0] for result in self.results]

    @property
    def text(self) -> bytes:
        assert self.error is None, self.error
        return b"".join(self.pieces)

    @property
    def finish_reason(self) -> str:
        reason: bytes = self.results[-1].as_numpy("finish_reason")[0][0]
        return reason.decode()

    def array(self, name: str) -> Any:
        return self.results[-1].as_numpy(name)


def tensor(name: str, values: Any) -> grpcclient.InferInput:
    dtype = DTYPES.get(name) or (bool if isinstance(values, bool) else np.int32)
    array = np.array(values, dtype=dtype)
    array = array.reshape(1, -1) if array.ndim < 2 else array
    made = grpcclient.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array)
    return made


class Stream:
    """One request under way."""

    def __init__(self, url: str, inputs: list[grpcclient.InferInput], **options: Any) -> None:
        self._client = grpcclient.InferenceServerClient(url)
        self._queue: queue.Queue[tuple[Any, Any]] = queue.Queue()
        self._client.start_stream(lambda result, error: self._queue.put((result, error)))
        self._client.async_stream_infer(
            options.pop("model", "ensemble"), inputs, enable_empty_final_response=True, **options
        )

    def next(self, timeout_s: float = 60) -> tuple[Any, bool]:
        """The next response (None for an empty one) and whether it was the last."""
        result, error = self._queue.get(timeout=timeout_s)
        if error is not None:
            raise RuntimeError(str(error))
        parameters = result.get_response().parameters
        empty = not result.get_response().outputs
        return None if empty else result, parameters["triton_final_response"].bool_param

    def answer(self) -> Answer:
        answer = Answer()
        final = False
        while not final:
            try:
                result, final = self.next()
            except RuntimeError as error:
                answer.error = str(error)
                break
            if result is not None:
                answer.results.append(result)
        self.close()
        return answer

    def cancel(self) -> None:
        self._client.stop_stream(cancel_requests=True)
        self._client.close()

    def close(self) -> None:
        self._client.stop_stream()
        self._client.close()


class Speaker:
    """Sends requests to one server."""

    def __init__(self, url: str) -> None:
        self.url = url

    def start(
        self,
        text: Any,
        max_tokens: Any = 64,
        request_id: str = "",
        timeout: int | None = None,
        parameters: dict[str, Any] | None = None,
        **inputs: Any,
    ) -> Stream:
        only = np.full((1 if isinstance(text, str | bytes) else len(text), 1), True)
        values = {"text_input": text, "max_tokens": max_tokens, "exclude_input_in_output": only}
        values |= inputs
        tensors = [tensor(name, value) for name, value in values.items()]
        options = {"request_id": request_id, "timeout": timeout, "parameters": parameters}
        return Stream(self.url, tensors, **options)

    def ask(self, text: Any, max_tokens: Any = 64, request_id: str = "", **inputs: Any) -> Answer:
        return self.start(text, max_tokens, request_id, **inputs).answer()
