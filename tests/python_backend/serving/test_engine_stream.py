"""A sequence on its way out: each token once, and what the request asks of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from contract.models import TENSORRT_LLM_MODEL
from python_backend.engine.sequence import LogProbs, Outcome, SamplingParams
from tests.python_backend.serving.fake_triton import Request

from python_backend.serving.engine_stream import EngineStream  # isort: skip
from python_backend.serving.generation_request import Reporting, Row  # isort: skip
from python_backend.serving.sessions import Session  # isort: skip

PROMPT = np.array([5, 6, 7], dtype=np.int32)


def make_stream(streaming: bool = True, echo: bool = False, **asked: Any) -> EngineStream:
    params = SamplingParams(
        max_tokens=9,
        end_ids=frozenset([2]),
        log_probs=asked.pop("log_probs", False),
        num_top_log_probs=asked.pop("num_top_log_probs", 0),
        num_prompt_log_probs=asked.pop("num_prompt_log_probs", 0),
    )
    flags = {"perf_metrics": False, "num_input_tokens": False, "num_output_tokens": False, **asked}
    reporting = Reporting(streaming=streaming, echo=echo, **flags)
    stream = EngineStream(Row(PROMPT, params, 3, 0, 0), reporting, b"said")
    Session(Request({}), [stream])
    return stream


def responses(stream: EngineStream) -> list[dict[str, Any]]:
    request: Any = stream.session._sender
    return [response.outputs for response in request.responses]


def test_each_token_is_sent_once_and_the_reason_with_the_last() -> None:
    stream = make_stream()
    stream.queued = True
    stream.send_news()
    assert not stream.queued
    assert responses(stream) == []
    stream.sequence.append(11)
    stream.sequence.append(12)
    stream.send_news()
    assert stream.num_sent == 2
    stream.send_news()
    stream.sequence.append(13)
    stream.sequence.append(2)
    stream.send_news()
    stream.send_news()
    first, last = responses(stream)
    assert first["output_ids"].tolist() == [[[11, 12]]]
    assert first["stream_context"].item() == b"said"
    assert "finish_reason" not in first
    assert last["output_ids"].tolist() == [[[13]]]
    assert last["finish_reason"].item() == b"stop"
    assert stream.session._sender.ended


def test_an_end_without_tokens_is_an_end() -> None:
    stream = make_stream()
    stream.sequence.finish_reason = "cancelled"
    stream.send_news()
    (last,) = responses(stream)
    assert last["output_ids"].size == 0
    assert last["finish_reason"].item() == b"cancelled"


def test_what_was_not_asked_for_is_not_said() -> None:
    stream = make_stream()
    stream.sequence.append(2)
    stream.send_news()
    assert responses(stream)[0].keys() == {
        "output_ids",
        "sequence_length",
        "sequence_id",
        "finish_reason",
        "stream_context",
    }


def test_the_prompt_comes_first_where_it_is_wanted() -> None:
    stream = make_stream(streaming=False, echo=True, num_output_tokens=True)
    for token in (11, 2):
        stream.sequence.append(token)
    stream.send_news()
    (only,) = responses(stream)
    assert only["output_ids"].tolist() == [[[5, 6, 7, 11]]]
    assert only["sequence_length"].item() == 4
    assert only["num_output_tokens"].item() == 1


def test_log_probabilities_are_of_the_tokens_that_leave_and_their_sum_of_all() -> None:
    stream = make_stream(num_top_log_probs=2)
    stream.sequence.append(11, LogProbs(-1.0, [11, 3], [-1.0, -2.0]))
    stream.sequence.append(12, LogProbs(-0.5, [12, 4], [-0.5, -3.0]))
    stream.send_news()
    stream.sequence.append(13, LogProbs(-0.25, [9, 13], [-0.125, -0.25]))
    stream.send_news()
    first, second = responses(stream)
    assert first["output_log_probs"].tolist() == [[[-1.0, -0.5]]]
    assert first["cum_log_probs"].tolist() == [[-1.5]]
    assert second["output_log_probs"].tolist() == [[[-0.25]]]
    assert second["cum_log_probs"].tolist() == [[-1.75]]
    assert first["top_log_prob_ids"].tolist() == [[[[11, 3], [12, 4]]]]
    assert second["top_log_probs"].tolist() == [[[[-0.125, -0.25]]]]


def test_an_end_without_tokens_has_log_probabilities_of_none() -> None:
    stream = make_stream(num_top_log_probs=2)
    stream.sequence.append(2)
    stream.send_news()
    (last,) = responses(stream)
    assert last["output_log_probs"].shape == (1, 1, 0)
    assert last["top_log_probs"].shape == (1, 1, 0, 2)


@pytest.mark.parametrize("ended", [True, False])
def test_all_that_can_be_asked_is_in_the_types_of_the_contract(ended: bool) -> None:
    stream = make_stream(
        log_probs=True, perf_metrics=True, num_input_tokens=True, num_output_tokens=True
    )
    sequence = stream.sequence
    sequence.first_scheduled_ns = 2**40
    sequence.num_new_blocks, sequence.num_reused_blocks = 3, 4
    sequence.append(11, LogProbs(-1.0, [], []))
    if ended:
        sequence.append(2)
    stream.send_news()
    (outputs,) = responses(stream)
    types = {"INT32": np.int32, "INT64": np.int64, "UINT64": np.uint64, "FP32": np.float32}
    contract = {tensor.name: tensor for tensor in TENSORRT_LLM_MODEL.outputs}
    assert len(outputs) == 18 + ended
    for name, array in outputs.items():
        assert array.dtype == types.get(contract[name].data_type, np.object_)
        assert array.ndim == 1 + len(contract[name].dims)
    assert outputs["num_input_tokens"].item() == 3
    assert outputs["kv_cache_alloc_total_blocks"].item() == 7
    assert outputs["first_scheduled_time_ns"].item() == 2**40
    assert outputs["arrival_time_ns"].item() == sequence.arrival_ns
    assert outputs["last_token_time_ns"].item() == sequence.last_token_ns
    assert outputs["total_draft_tokens"].item() == 0


@pytest.mark.parametrize(("drafts", "right", "rate"), [(8, 6, 0.75), (4, 0, 0), (0, 0, 0)])
def test_drafts_and_those_that_were_right_are_told(drafts: int, right: int, rate: float) -> None:
    stream = make_stream(perf_metrics=True)
    stream.sequence.num_drafts, stream.sequence.num_right_drafts = drafts, right
    stream.sequence.append(2)
    stream.send_news()
    (outputs,) = responses(stream)
    assert outputs["total_draft_tokens"].item() == drafts
    assert outputs["total_accepted_draft_tokens"].item() == right
    assert outputs["acceptance_rate"].item() == rate


@pytest.mark.parametrize(
    ("asked", "cost"),
    [({}, 1), ({"log_probs": True}, 1 + 8 / 256), ({"num_top_log_probs": 20}, 1 + 8 * 21 / 256)],
)
def test_log_probabilities_cost_as_much_as_their_texts(asked: dict[str, Any], cost: float) -> None:
    stream = make_stream(**asked)
    stream.sequence.output += range(10)
    stream.num_sent = 2
    assert stream.cost == pytest.approx(cost)


def test_the_first_tokens_and_the_end_are_urgent() -> None:
    stream = make_stream()
    assert stream.is_urgent
    stream.num_sent = 2
    assert not stream.is_urgent
    stream.sequence.finish_reason = "stop"
    assert stream.is_urgent


def scored(stream: EngineStream, *tokens: int) -> None:
    """Have a step tell how likely the prompt's last two tokens were."""
    tell = [LogProbs(-2.0, [6, 1], [-2.0, -3.0]), LogProbs(-4.0, [9, 7], [-0.5, -4.0])]
    stream.sequence.take(Outcome(tell, list(tokens), []))


def test_the_first_response_alone_tells_of_the_prompt() -> None:
    stream = make_stream(num_prompt_log_probs=2, num_top_log_probs=2, prompt_tokens=True)
    scored(stream, 11)
    stream.send_news()
    stream.sequence.append(12)
    stream.send_news()
    first, second = responses(stream)
    assert first["prompt_ids"].tolist() == [[5, 6, 7]]
    assert first["prompt_log_probs"].tolist() == [[-2.0, -4.0]]
    assert first["prompt_top_log_prob_ids"].tolist() == [[[6, 1], [9, 7]]]
    assert first["prompt_top_log_probs"].tolist() == [[[-2.0, -3.0], [-0.5, -4.0]]]
    assert not {name for name in second if name.startswith("prompt_")}


def test_a_prompt_that_is_scored_costs_by_its_entries() -> None:
    stream = make_stream(num_prompt_log_probs=2)
    scored(stream, 11)
    dear = stream.cost
    stream.send_news()
    assert stream.cost == 1 < dear


def test_a_prompt_of_one_token_has_no_log_probabilities() -> None:
    stream = make_stream(num_prompt_log_probs=2, num_top_log_probs=2)
    stream.sequence.append(11, LogProbs(-1.0, [11, 3], [-1.0, -2.0]))
    stream.send_news()
    (first,) = responses(stream)
    assert first["prompt_log_probs"].shape == (1, 0)
    assert first["prompt_top_log_probs"].shape == (1, 0, 2)
