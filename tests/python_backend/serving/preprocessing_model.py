"""The preprocessing model as its tests ask it."""

from __future__ import annotations

import json
import re
from typing import Any

from contract.error_text import Status, read
from contract.models import ENSEMBLE_MODEL, PREPROCESSING_MODEL
from contract.names import REQUEST_PARAMETERS
from python_backend.engine.engine_config import EngineConfig
from tests.python_backend.engine.descriptions import decoder, heads
from tests.python_backend.serving.fake_triton import (
    InferenceResponse,
    TritonError,
    make_request,
)
from tests.python_backend.text.samples import byte_level

from python_backend.serving.answer import StreamContext  # isort: skip
from python_backend.serving.preprocessing import TritonPythonModel  # isort: skip

TOKENIZER = byte_level()
END, PAD = (TOKENIZER.get_vocab()[token] for token in ("<|end|>", "<|é|>"))
POLICIES = """
default: none
policies:
  none: {}
  strict:
    rules:
      - {name: personal, find: personal_data, input: redact}
      - {name: dogs, find: terms, terms: [dog], input: block, output: block}
      - {name: cats, find: terms, terms: [cat], input: flag}
"""
CONFIG = '{"eos_token": "<|end|>", "pad_token": "<|é|>"}'


def engine_config(context: int) -> EngineConfig:
    return EngineConfig(
        architecture="LlamaForCausalLM",
        precision="fp32",
        context_length=context,
        end_token_ids=(END,),
        decoder=decoder(heads(), vocab_size=400),
    )


TEMPLATE = "<|im start|>{{ messages[0].role }}: {{ messages[0].content }}"
CHAT = '[{"role": "user", "content": "cat"}]'


def chat(messages: str = CHAT) -> list[list[bytes]]:
    return [[messages.encode()]]


def answer(
    model: TritonPythonModel, *texts: str | bytes, policy: Any = None, **inputs: Any
) -> InferenceResponse:
    queries = [[text.encode() if isinstance(text, str) else text] for text in texts]
    inputs.setdefault("REQUEST_OUTPUT_LEN", [[9]] * len(texts))
    request = make_request(PREPROCESSING_MODEL, QUERY=queries, **inputs)
    if policy is not None:
        request.parameters_json = json.dumps({"safety_policy": policy})
    (response,) = model.execute([request])
    return response


def refusal(model: TritonPythonModel, *texts: str | bytes, **inputs: Any) -> str:
    error = answer(model, *texts, **inputs).error
    assert error is not None
    assert error.code == TritonError.INVALID_ARG
    said = read(error.message)
    assert said.status is Status.INVALID_ARGUMENT
    first = re.split(r"\W", said.message)[0]
    if first in (*ENSEMBLE_MODEL.input_names(), *REQUEST_PARAMETERS):
        assert said.param == first
    return said.message if said.code is None else f"{said.code}: {said.message}"


def context(response: InferenceResponse) -> StreamContext:
    """What postprocessing is told of a request of one row."""
    return StreamContext.from_bytes(response.outputs["STREAM_CONTEXT"].item())
