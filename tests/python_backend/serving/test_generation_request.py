"""Requests to the engine: tensors become rows, each with a prompt and sampling parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from contract.errors import InvalidRequestError
from contract.models import (
    ALWAYS_SAYING,
    TENSORRT_LLM_MODEL,
    UNSUPPORTED_INPUTS,
    EngineInputs,
)
from contract.tensors import Tensor
from python_backend.engine.sequence import SamplingParams
from python_backend.serving.generation_request import GenerationRequest, Reporting, read_request

if TYPE_CHECKING:
    from python_backend.serving.triton_api import Inputs

DTYPES = {
    "BOOL": np.bool_,
    "FP16": np.float16,
    "FP32": np.float32,
    "INT32": np.int32,
    "INT64": np.int64,
    "STRING": np.object_,
    "UINT64": np.uint64,
    "UINT8": np.uint8,
}
DATA_TYPES = {tensor.name: tensor.data_type for tensor in TENSORRT_LLM_MODEL.inputs}


class FakeInputs:
    """Inputs of a request without Triton."""

    def __init__(self, **inputs: Any) -> None:
        self.named: dict[str, Any] = {}
        self._arrays = {
            name: np.array(value, DTYPES[DATA_TYPES[name]]) for name, value in inputs.items()
        }

    def array(self, tensor: Tensor) -> NDArray[Any] | None:
        return self._arrays.get(tensor.name)

    def given(self, tensors: Iterable[Tensor]) -> Iterator[tuple[Tensor, NDArray[Any]]]:
        return (
            (tensor, self._arrays[tensor.name]) for tensor in tensors if tensor.name in self._arrays
        )

    def required(self, tensor: Tensor) -> NDArray[Any]:
        array = self.array(tensor)
        if array is None:
            raise InvalidRequestError(f"{tensor.name} is missing")
        return array

    def scalars(self, tensor: Tensor, batch: int) -> list[Any] | None:
        array = self.array(tensor)
        return None if array is None else cast("list[Any]", array.reshape(batch).tolist())

    def timeout_us(self) -> int:
        return 1500

    def parameters(self) -> dict[str, Any]:
        return self.named


def read(exclude_input: Any = True, **inputs: Any) -> GenerationRequest:
    """A request whose first three tensors are filled in where the test leaves them out."""
    ids = inputs.setdefault("input_ids", [[5, 6, 7]])
    inputs.setdefault("input_lengths", [len(row) for row in ids])
    inputs.setdefault("request_output_len", [9] * len(ids))
    return read_request(cast("Inputs", FakeInputs(**inputs)), (2, 3), exclude_input)


def params(**inputs: Any) -> SamplingParams:
    """Sampling parameters of a request with one row."""
    return read(**inputs).rows[0].params


def refusal(**inputs: Any) -> str:
    with pytest.raises(InvalidRequestError) as error:
        read(**inputs)
    assert error.value.param is not None
    return str(error.value)


def test_a_request_with_the_least() -> None:
    request = read()
    (row,) = request.rows
    assert row.prompt.tolist() == [5, 6, 7]
    assert row.params == SamplingParams(max_tokens=9, end_ids=frozenset([2, 3]))
    assert (row.batch_index, row.sequence_index) == (0, 0)
    assert (request.batch_size, request.num_return_sequences) == (1, 1)
    assert row.priority == 3
    assert request.timeout_us == 1500
    assert not request.liveness_probes
    assert request.reporting == Reporting(
        streaming=False,
        echo=False,
        perf_metrics=False,
        num_input_tokens=False,
        num_output_tokens=False,
    )


def test_each_row_of_a_batch_has_its_own_length_and_parameters() -> None:
    request = read(
        input_ids=[[5, 6, 7], [8, 0, 0]],
        input_lengths=[3, 1],
        request_output_len=[9, 4],
        temperature=[0.5, 2.0],
        runtime_top_k=[1, 2],
        runtime_top_p=[0.25, 0.5],
        repetition_penalty=[1.5, 1.0],
        presence_penalty=[0.5, -0.5],
        frequency_penalty=[0.0, 0.25],
        min_tokens=[0, 4],
        seed=[1, 2**64 - 1],
        end_id=[-1, 3],
    )
    first, second = request.rows
    assert [row.prompt.tolist() for row in request.rows] == [[5, 6, 7], [8]]
    assert first.params == SamplingParams(
        max_tokens=9,
        temperature=0.5,
        top_k=1,
        top_p=0.25,
        repetition_penalty=1.5,
        presence_penalty=0.5,
        seed=1,
        end_ids=frozenset([-1]),
    )
    assert second.params == SamplingParams(
        max_tokens=4,
        temperature=2.0,
        top_k=2,
        top_p=0.5,
        presence_penalty=-0.5,
        frequency_penalty=0.25,
        min_tokens=4,
        seed=2**64 - 1,
        end_ids=frozenset([2, 3]),
    )
    assert [row.batch_index for row in request.rows] == [0, 1]
    assert request.batch_size == 2


def test_several_sequences_of_a_prompt_have_seeds_of_their_own() -> None:
    request = read(input_ids=[[5], [6]], num_return_sequences=[3, 3], seed=[10, 20])
    assert [(row.batch_index, row.sequence_index) for row in request.rows] == [
        (prompt, copy) for prompt in (0, 1) for copy in (0, 1, 2)
    ]
    assert [row.params.seed for row in request.rows] == [10, 11, 12, 20, 21, 22]
    assert request.num_return_sequences == 3


def test_each_row_has_its_own_priority() -> None:
    request = read(input_ids=[[5]] * 3, priority=[1, 0, 5])
    assert [row.priority for row in request.rows] == [1, 3, 5]


@pytest.mark.parametrize(("value", "priority"), [(1, 1), (0, 3)])
def test_tritons_own_priority_holds_where_the_input_is_left_out(value: int, priority: int) -> None:
    inputs = FakeInputs(input_ids=[[5]], input_lengths=[1], request_output_len=[1])
    inputs.named["priority"] = value
    (row,) = read_request(cast("Inputs", inputs), (2,), True).rows
    assert row.priority == priority


@pytest.mark.parametrize("value", ["high", 2.0, True, None])
def test_tritons_own_priority_must_be_a_number_as_well(value: Any) -> None:
    inputs = FakeInputs(input_ids=[[5]], input_lengths=[1], request_output_len=[1])
    inputs.named["priority"] = value
    with pytest.raises(InvalidRequestError, match="priority is "):
        read_request(cast("Inputs", inputs), (2,), True)


@pytest.mark.parametrize("priority", [-1, 6])
def test_a_priority_out_of_bounds_is_refused(priority: int) -> None:
    assert refusal(priority=[priority]) == (
        f"priority is {priority}; it must be between 1, the most urgent, and 5, or 0 for the "
        "default"
    )


def test_without_a_seed_none_is_made_up() -> None:
    assert [row.params.seed for row in read(num_return_sequences=[2]).rows] == [None, None]


@pytest.mark.parametrize(
    ("end_id", "end_ids"),
    [(None, {2, 3}), (2, {2, 3}), (3, {2, 3}), (7, {7}), (-1, {-1})],
)
def test_an_end_token_of_the_engine_stands_for_all_of_them(
    end_id: int | None, end_ids: set[int]
) -> None:
    inputs = {} if end_id is None else {"end_id": [end_id]}
    assert params(**inputs).end_ids == end_ids


def test_prompts_and_bias_outlive_the_request() -> None:
    ids = np.array([[5, 6, 7]], dtype=np.int32)
    bias = np.array([[0.5, 1.0]], dtype=np.float32)
    inputs = FakeInputs(input_lengths=[2], request_output_len=[1])
    inputs._arrays |= {"input_ids": ids, "embedding_bias": bias}
    (row,) = read_request(cast("Inputs", inputs), (2,), True).rows
    ids[:], bias[:] = 0, 0
    assert row.prompt.tolist() == [5, 6]
    assert row.params.embedding_bias is not None
    assert row.params.embedding_bias.tolist() == [0.5, 1.0]


def test_an_empty_bias_is_none() -> None:
    assert params(embedding_bias=np.zeros((1, 0))).embedding_bias is None


def test_words_are_read_from_tensorrt_llms_format() -> None:
    request = read(
        input_ids=[[5], [6], [7]],
        stop_words_list=[
            [[1, 2, 3], [1, 3, -1]],
            [[4, 0, 0], [1, -1, -1]],
            [[0, 0, 0], [-1, -1, -1]],
        ],
        bad_words_list=np.zeros((3, 2, 0)),
    )
    assert [row.params.stop_words for row in request.rows] == [((1,), (2, 3)), ((4,),), ()]
    assert [row.params.bad_words for row in request.rows] == [(), (), ()]


WORDS = st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=3).map(tuple), max_size=4)


@given(words=WORDS, padding=st.integers(0, 3))
def test_any_words_can_be_read(words: list[tuple[int, ...]], padding: int) -> None:
    tokens = [token for word in words for token in word] + [0] * padding
    offsets = np.full(len(tokens), -1)
    offsets[: len(words)] = np.cumsum([len(word) for word in words])
    assert params(bad_words_list=[[tokens, offsets.tolist()]]).bad_words == tuple(words)


@pytest.mark.parametrize("offsets", [[4, -1, -1], [2, 1, -1], [1, 1, -1], [0, 1, -1], [-2, 1, -1]])
def test_offsets_that_are_none_are_refused(offsets: list[int]) -> None:
    assert refusal(stop_words_list=[[[1, 2, 3], offsets]]) == (
        "stop_words_list: offsets must rise and stay within the tokens"
    )


@pytest.mark.parametrize("shape", [(1, 3, 4), (2, 2, 4)])
def test_words_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    assert refusal(bad_words_list=np.zeros(shape)) == (
        f"bad_words_list has shape {list(shape)}; it must be [1, 2, length]"
    )


@pytest.mark.parametrize(
    ("inputs", "default", "echo"),
    [
        ({}, True, False),
        ({}, False, True),
        ({"exclude_input_in_output": [False]}, True, True),
        ({"exclude_input_in_output": [True]}, False, False),
        ({"exclude_input_in_output": [False], "streaming": [True]}, True, False),
    ],
)
def test_the_prompt_is_echoed_where_asked_for_but_never_streamed(
    inputs: dict[str, Any], default: bool, echo: bool
) -> None:
    assert read(exclude_input=default, **inputs).reporting.echo is echo


@pytest.mark.parametrize(
    ("name", "attribute"),
    [
        ("streaming", "streaming"),
        ("return_perf_metrics", "perf_metrics"),
        ("return_num_input_tokens", "num_input_tokens"),
        ("return_num_output_tokens", "num_output_tokens"),
    ],
)
def test_reports_are_given_where_asked_for(name: str, attribute: str) -> None:
    request = read(input_ids=[[5], [6]], **{name: [True, True]})
    wanted = {key for key, value in vars(request.reporting).items() if value}
    assert wanted == {attribute}


def test_log_probabilities_and_liveness_probes_where_asked_for() -> None:
    request = read(return_log_probs=[True], liveness_probes=[True])
    assert request.rows[0].params.log_probs
    assert request.liveness_probes


@pytest.mark.parametrize("tensor", UNSUPPORTED_INPUTS, ids=lambda tensor: tensor.name)
def test_what_the_engine_cannot_do_is_refused_by_name(tensor: Tensor) -> None:
    value: Any = {"STRING": "json", "BOOL": True}.get(tensor.data_type, 2)
    row = [value, value] if tensor is EngineInputs.DECODER_INPUT_IDS else [value]
    assert refusal(**{tensor.name: [row]}) == (
        f"{tensor.name}: {UNSUPPORTED_INPUTS[tensor]} is not supported by this engine"
    )


@pytest.mark.parametrize("tensor", UNSUPPORTED_INPUTS, ids=lambda tensor: tensor.name)
def test_what_is_refused_may_be_said_to_be_off(tensor: Tensor) -> None:
    value: Any = {"STRING": "", "BOOL": False}.get(tensor.data_type, 0)
    if tensor is EngineInputs.RUNTIME_TOP_P_DECAY:
        value = 1
    if tensor in ALWAYS_SAYING:
        assert tensor.name in refusal(**{tensor.name: [[value]]})  # such as the LoRA task 0
    else:
        assert len(read(**{tensor.name: [[value]]}).rows) == 1


def test_what_says_nothing_alone_is_taken() -> None:
    request = read(
        draft_acceptance_threshold=[0.9],
        decoder_input_ids=[[1]],
        decoder_input_lengths=[1],
        early_stopping=[True],
        runtime_top_p_min=[0.1],
    )
    assert len(request.rows) == 1


def test_what_tells_beams_apart_is_allowed_for_one() -> None:
    assert len(read(beam_width=[1], len_penalty=[2.0], pad_id=[0]).rows) == 1
    assert refusal(beam_width=[2]) == (
        "beam_width is above 1; beam search is not supported, num_return_sequences may serve"
    )


@pytest.mark.parametrize("copies", [[0], [65], [-1], [1, 2]])
def test_num_return_sequences_has_bounds(copies: list[int]) -> None:
    assert refusal(input_ids=[[5]] * len(copies), num_return_sequences=copies) == (
        f"num_return_sequences is {max(copies)}; it must be between 1 and 64, the same for all rows"
    )


@pytest.mark.parametrize(
    "name", ["streaming", "return_log_probs", "return_perf_metrics", "liveness_probes"]
)
def test_rows_that_contradict_one_another_are_refused(name: str) -> None:
    assert refusal(input_ids=[[5], [6]], **{name: [True, False]}) == (
        f"{name} must be the same for all 2 rows of a batch"
    )


@pytest.mark.parametrize("length", [4, -1])
def test_a_length_beyond_the_tokens_is_refused(length: int) -> None:
    assert refusal(input_lengths=[length]) == (f"input_lengths is {length}; input_ids has 3 tokens")


def test_a_request_without_tokens_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="input_ids is missing"):
        read_request(cast("Inputs", FakeInputs()), (2,), True)


def test_a_parameter_out_of_bounds_is_refused_as_sampling_says() -> None:
    assert refusal(runtime_top_p=[1.5]) == "top_p is 1.5; it must be between 0 and 1"
    assert refusal(request_output_len=[0]) == "max_tokens is 0; it must be at least 1"
