"""Pieces as responses: TensorRT-LLM's tensors, in the contract's types and shapes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from contract.models import TENSORRT_LLM_MODEL, EngineOutputs
from tests.python_backend.serving.fake_triton import InferenceResponse, Request

from python_backend.serving.encoding import Piece, encode, number  # isort: skip
from python_backend.serving.sessions import Session, Stream  # isort: skip


def int32(*values: int) -> NDArray[np.int32]:
    return np.array(values, dtype=np.int32)


def encoded(
    piece: Piece, batch_size: int = 1, num_return_sequences: int = 1, context: bytes | None = None
) -> InferenceResponse:
    stream = Stream(2**64 - 1, 3, 4, context)
    Session(Request({}), [stream], batch_size=batch_size, num_return_sequences=num_return_sequences)
    response: InferenceResponse = encode(stream, piece)
    return response


def test_a_probe_says_whose_it_is_and_nothing_else() -> None:
    outputs = encoded(Piece()).outputs
    assert outputs.keys() == {"output_ids", "sequence_length", "sequence_id"}
    assert outputs["output_ids"].shape == (1, 1, 0)
    assert outputs["sequence_length"].tolist() == [[0]]
    assert outputs["sequence_id"].tolist() == [[2**64 - 1]]


def test_tokens_a_reason_and_what_was_asked_for() -> None:
    statistics = {EngineOutputs.NUM_INPUT_TOKENS: number(5)}
    outputs = encoded(Piece((int32(7, 8),), "stop", statistics), context=b"").outputs
    assert outputs["output_ids"].tolist() == [[[7, 8]]]
    assert outputs["sequence_length"].tolist() == [[2]]
    assert outputs["finish_reason"].tolist() == [[b"stop"]]
    assert outputs["stream_context"].tolist() == [[b""]]
    assert outputs["num_input_tokens"].tolist() == [[5]]


@pytest.mark.parametrize(
    ("batch_size", "copies", "place"),
    [
        (1, 1, {}),
        (4, 1, {"batch_index": 3}),
        (1, 5, {"sequence_index": 4}),
        (4, 5, {"batch_index": 3, "sequence_index": 4}),
    ],
)
def test_a_place_is_said_where_there_are_several(
    batch_size: int, copies: int, place: dict[str, int]
) -> None:
    outputs = encoded(Piece(), batch_size, copies).outputs
    said = {name for name in outputs if name.endswith("_index")}
    assert {name: outputs[name].item() for name in said} == place


def test_beams_of_any_length_lie_side_by_side() -> None:
    outputs = encoded(Piece([int32(1, 2, 3), int32(), int32(4)], "length")).outputs
    assert outputs["output_ids"].tolist() == [[[1, 2, 3], [0, 0, 0], [4, 0, 0]]]
    assert outputs["sequence_length"].tolist() == [[3, 0, 1]]


def test_all_is_in_the_types_of_the_contract() -> None:
    piece = Piece((int32(7),), "stop")
    types = {"INT32": np.int32, "UINT64": np.uint64, "STRING": np.object_}
    contract = {tensor.name: tensor for tensor in TENSORRT_LLM_MODEL.outputs}
    outputs = encoded(piece, 4, 5, b"said").outputs
    assert len(outputs) == 7
    for name, array in outputs.items():
        assert array.dtype == types[contract[name].data_type]
        assert array.shape[0] == 1
        assert array.ndim == 1 + len(contract[name].dims)
