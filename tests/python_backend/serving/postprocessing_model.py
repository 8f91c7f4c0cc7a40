"""The postprocessing model as its tests ask it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contract.models import POSTPROCESSING_MODEL
from tests.python_backend.serving.fake_triton import (
    InferenceRequest,
    MetricFamily,
    Request,
    initialize_args,
    make_request,
)
from tests.python_backend.text.samples import byte_level

from python_backend.serving import postprocessing  # isort: skip
from python_backend.serving.answer import StreamContext  # isort: skip


TOKENIZER = byte_level()
TEXT = "déjà 🐱, write to ana@acme.example or call +44 20 7946 0123 東京"
SAFE = "déjà 🐱, write to [EMAIL] or call [PHONE] 東京"
POLICIES = """
default: standard
policies:
  standard:
    rules:
      - {name: personal, find: personal_data, output: redact}
    refusals: ['^Sorry']
  strict:
    rules:
      - {name: codename, find: pattern, pattern: 'PRO[A-Z]{3}', output: block}
      - {name: cats, find: terms, terms: [cat], output: flag}
"""
STRICT = '{"safety_policy": "strict"}'


class Thread:
    """Does at once what a thread would do."""

    def __init__(self, target: Any, daemon: bool) -> None:
        self.start = target


@pytest.fixture
def model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[postprocessing.TritonPythonModel]:
    monkeypatch.setattr(postprocessing, "Thread", Thread)
    monkeypatch.setattr(postprocessing, "_CHECK_CLIENT_EVERY_S", 0.0)
    monkeypatch.setattr(InferenceRequest, "made", [])
    monkeypatch.setattr(MetricFamily, "made", {})
    folder = tmp_path / "tensorrt_llm" / "1"
    folder.mkdir(parents=True)
    TOKENIZER.save(str(folder / "tokenizer.json"))
    (tmp_path / "policies.yaml").write_text(POLICIES)
    model = postprocessing.TritonPythonModel()
    model.initialize(
        initialize_args(
            tmp_path / "postprocessing",
            policy_file=str(tmp_path / "policies.yaml"),
            engine_model="the_engine",
        )
    )
    yield model
    model.finalize()


def piece(
    tokens: list[int],
    sequence: int,
    reason: str = "",
    context: StreamContext | None = None,
    parameters: str = "{}",
    **inputs: Any,
) -> Request:
    """One piece; with a context it is a sequence's first."""
    if context is not None:
        inputs["stream_context"] = [[context.to_bytes()]]
    if reason:
        inputs["finish_reason"] = [[reason.encode()]]
    request = make_request(
        POSTPROCESSING_MODEL,
        TOKENS_BATCH=[[tokens]],
        SEQUENCE_LENGTH=[[len(tokens)]],
        sequence_id=[[sequence]],
        **inputs,
    )
    request.parameters_json = parameters
    return request


FIRST = StreamContext()


def answers(**labels: str) -> float:
    """How many answers were counted that ended so, under the policy ``standard``."""
    wanted = {"policy": "standard", **labels, "model": "postprocessing", "version": "1"}
    metric = MetricFamily.made["trireme_answers_total"].series.get(frozenset(wanted.items()))
    return 0 if metric is None else metric.value


def pieces(
    text: str, sequence: int = 1, context: StreamContext = FIRST, parameters: str = "{}"
) -> list[Request]:
    """A stream of single tokens that begins with a liveness probe and ends by itself."""
    ids = TOKENIZER.encode(text, add_special_tokens=False).ids
    return [
        piece([], sequence, context=context, parameters=parameters),
        *(piece([token], sequence) for token in ids),
        piece([], sequence, "stop"),
    ]


def texts(requests: list[Request]) -> str:
    """The text of all responses; each request is answered at most once, and ended."""
    assert all(request.ended and len(request.responses) <= 1 for request in requests)
    responses = [response for request in requests for response in request.responses]
    return b"".join(response.outputs["OUTPUT"].item() for response in responses).decode()


def verdicts(requests: list[Request]) -> list[dict[str, Any]]:
    return [
        verdict
        for request in requests
        for response in request.responses
        if "safety_verdicts" in response.outputs
        for verdict in json.loads(response.outputs["safety_verdicts"].item())
    ]


def reasons(requests: list[Request]) -> list[str]:
    """Why answers ended."""
    outputs = [response.outputs for request in requests for response in request.responses]
    return [each["finish_reason"].item().decode() for each in outputs if "finish_reason" in each]
