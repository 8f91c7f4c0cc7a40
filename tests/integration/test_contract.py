"""The ensemble as a client written for TensorRT-LLM's sees it."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest

from contract.models import (
    ENSEMBLE_MODEL,
    POSTPROCESSING_MODEL,
    PREPROCESSING_MODEL,
    TENSORRT_LLM_MODEL,
)
from contract.tensors import Model
from tests.integration.conftest import Server
from tests.integration.speaker import Speaker, Stream, tensor

pytestmark = pytest.mark.integration

QUESTION = "What is the capital of France?"


@pytest.mark.parametrize(
    "model",
    [
        PREPROCESSING_MODEL,
        TENSORRT_LLM_MODEL,
        POSTPROCESSING_MODEL,
        ENSEMBLE_MODEL,
    ],
    ids=lambda model: str(model.name),
)
def test_triton_serves_the_contract(triton: Server, model: Model) -> None:
    config = httpx.get(f"{triton.http_url}/v2/models/{model.name}/config").json()
    for served, tensors in ((config["input"], model.inputs), (config["output"], model.outputs)):
        assert [t["name"] for t in served] == [t.name for t in tensors]
        assert [t["data_type"] for t in served] == [f"TYPE_{t.data_type}" for t in tensors]
        assert [tuple(map(int, t["dims"])) for t in served] == [t.dims for t in tensors]
    assert config["max_batch_size"] == 64


def test_text_output_has_no_batch_dimension(speaker: Speaker) -> None:
    answer = speaker.ask(QUESTION, 8)
    assert answer.array("text_output").shape == (1,)
    assert answer.array("finish_reason").shape == (1, 1)


def test_one_response_unless_streaming(triton: Server, speaker: Speaker) -> None:
    assert len(speaker.ask(QUESTION, 16, end_id=-1).results) == 1
    with triton.braked(0.01):
        streamed = speaker.ask(QUESTION, 200, end_id=-1, stream=True, return_num_output_tokens=True)
    tokens = [int(r.as_numpy("num_output_tokens")[0][0]) for r in streamed.results]
    assert sum(tokens) == 200
    # Several tokens may share a response: streams have only so many.
    assert len(tokens) > 4
    assert streamed.finish_reason == "length"


def test_statistics_come_when_asked_for(speaker: Speaker) -> None:
    answer = speaker.ask(
        QUESTION,
        12,
        end_id=-1,
        return_log_probs=True,
        return_perf_metrics=True,
        return_num_input_tokens=True,
        return_num_output_tokens=True,
    )
    assert answer.array("output_log_probs").shape == (1, 1, 12)
    assert answer.array("cum_log_probs").shape == (1, 1)
    assert answer.array("output_log_probs").sum() == pytest.approx(
        answer.array("cum_log_probs")[0][0], rel=1e-4
    )
    assert answer.array("num_output_tokens")[0][0] == 12
    assert answer.array("num_input_tokens")[0][0] > 5
    times = [
        answer.array(f"{name}_time_ns")[0][0]
        for name in ("arrival", "first_scheduled", "first_token", "last_token")
    ]
    assert times == sorted(times)
    assert times[0] > 0
    plain = speaker.ask(QUESTION, 4)
    assert plain.array("output_log_probs") is None
    assert plain.array("num_input_tokens") is None


@pytest.mark.parametrize("stream", [True, False])
def test_the_likeliest_tokens_are_told_beside_each_chosen_one(
    speaker: Speaker, stream: bool
) -> None:
    answer = speaker.ask(QUESTION, 6, end_id=-1, num_top_log_probs=3, stream=stream)
    told = [
        np.concatenate([result.as_numpy(name) for result in answer.results], axis=2)[0, 0]
        for name in ("top_log_prob_ids", "top_log_probs", "output_log_probs")
    ]
    ids, likeliest, chosen = told
    assert ids.shape == likeliest.shape == (6, 3)
    assert (np.diff(likeliest, axis=1) <= 0).all()
    assert all(len(set(row)) == 3 for row in ids.tolist())
    assert likeliest[:, 0].tolist() == chosen.tolist()  # greedy


def test_min_p_bounds_what_is_sampled(speaker: Speaker) -> None:
    greedy = speaker.ask(QUESTION, 12).text
    assert speaker.ask(QUESTION, 12, temperature=9.0, min_p=1.0, seed=1).text == greedy
    texts = {speaker.ask(QUESTION, 12, temperature=9.0, min_p=1e-6, seed=n).text for n in range(4)}
    assert len(texts) > 1


def test_a_batch_of_prompts_is_answered_row_by_row(speaker: Speaker) -> None:
    questions = [QUESTION, "What is 7 + 5?", "Count from 3 to 9."]
    rows = [[question] for question in questions]
    answer = speaker.ask(rows, [[40]] * 3, stream=[[False]] * 3)
    by_row = {
        int(result.as_numpy("batch_index")[0][0]): result.as_numpy("text_output")[0]
        for result in answer.results
    }
    assert by_row == {i: speaker.ask(question, 40).text for i, question in enumerate(questions)}


def test_several_sequences_of_one_prompt(speaker: Speaker) -> None:
    answer = speaker.ask(
        QUESTION, 24, num_return_sequences=3, top_p=1.0, temperature=1.5, seed=11, end_id=-1
    )
    by_index = {
        int(result.as_numpy("sequence_index")[0][0]): result.as_numpy("text_output")[0]
        for result in answer.results
    }
    assert sorted(by_index) == [0, 1, 2]
    assert len(set(by_index.values())) > 1
    again = speaker.ask(QUESTION, 24, top_p=1.0, temperature=1.5, seed=12, end_id=-1)
    assert again.text == by_index[1]


def test_the_prompt_can_precede_the_output(speaker: Speaker) -> None:
    answer = speaker.ask(QUESTION, 8, exclude_input_in_output=False)
    assert answer.text.startswith(QUESTION.encode())
    assert answer.text.endswith(speaker.ask(QUESTION, 8).text)


def test_a_prompt_that_was_rendered_is_taken_as_it_is_where_it_says_so(
    speaker: Speaker,
) -> None:
    templated = f"<|user|>{QUESTION}<|end|><|assistant|>"
    expected = speaker.ask(QUESTION, 24)
    off = {"chat_template": "off"}
    assert speaker.ask(templated, 24, parameters=off).text == expected.text
    counts = [
        speaker.ask(text, 1, return_num_input_tokens=True).array("num_input_tokens").item()
        for text in (QUESTION, templated)
    ]
    assert counts[1] > counts[0] + 8  # the marks are text, and the text a user's message


def test_the_engine_alone_speaks_tensorrt_llm(triton: Server) -> None:
    inputs = [
        tensor("input_ids", [[70, 71, 72]]),
        tensor("input_lengths", [[3]]),
        tensor("request_output_len", [[5]]),
        tensor("end_id", [[-1]]),
    ]
    whole = Stream(triton.grpc_url, inputs, model="tensorrt_llm").answer()
    assert whole.array("output_ids")[0, 0, :3].tolist() == [70, 71, 72]
    inputs.append(tensor("exclude_input_in_output", [[True]]))
    answer = Stream(triton.grpc_url, inputs, model="tensorrt_llm").answer()
    assert answer.error is None
    assert len(answer.results) == 1
    assert answer.array("output_ids").shape == (1, 1, 5)
    assert whole.array("output_ids")[0, 0, 3:].tolist() == answer.array("output_ids")[0, 0].tolist()
    assert answer.array("output_ids").dtype == np.int32
    assert answer.array("sequence_length").tolist() == [[5]]


def test_http_generate(triton: Server) -> None:
    response = httpx.post(
        f"{triton.http_url}/v2/models/ensemble/generate",
        json={"text_input": QUESTION, "max_tokens": 32},
    )
    assert response.status_code == 200
    assert response.json()["text_output"]
    assert response.json()["finish_reason"] == "stop"


def test_sampling_with_a_seed_is_reproducible(speaker: Speaker) -> None:
    options: dict[str, Any] = {"top_p": 0.95, "temperature": 1.3, "end_id": -1}
    first, second = (speaker.ask(QUESTION, 40, seed=5, **options).text for _ in range(2))
    assert first == second
    assert speaker.ask(QUESTION, 40, seed=6, **options).text != first


def test_stop_words_end_the_text(speaker: Speaker) -> None:
    text = speaker.ask("Count from 3 to 30.", 100).text.decode()
    word = text[4:9]
    answer = speaker.ask("Count from 3 to 30.", 100, stop_words=[word.strip()])
    assert answer.finish_reason == "stop"
    assert answer.text.decode() == text[: len(answer.text)]
    assert len(answer.text) < len(text)


def test_bad_words_do_not_appear(speaker: Speaker) -> None:
    text = speaker.ask("Count from 3 to 30.", 60).text.decode()
    assert "," in text
    assert "," not in speaker.ask("Count from 3 to 30.", 60, bad_words=[","]).text.decode()


def test_the_token_bias_moves_the_choice(speaker: Speaker) -> None:
    answer = speaker.ask(
        QUESTION, 5, end_id=-1, embedding_bias_words=["!"], embedding_bias_weights=[100.0]
    )
    assert answer.text == b"!!!!!"
