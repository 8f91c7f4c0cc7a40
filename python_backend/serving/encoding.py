"""A piece of an answer as Triton's response: TensorRT-LLM's tensors, with a batch dimension of 1,
and what tells postprocessing whose piece it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from contract.codes import Ending
from contract.models import EngineOutputs
from contract.tensors import Tensor
from python_backend.serving.triton_api import triton_tensor

if TYPE_CHECKING:
    from python_backend.serving.sessions import Stream

_NO_TOKENS = np.zeros(0, dtype=np.int32)


class Piece(NamedTuple):
    """What is said of a stream at once. Where it has no tokens and no reason, it is a probe: it
    calls the ensemble's last step, where a client that went away shows.

    Attributes:
        beams: The tokens of each beam, int32 ``[tokens]``: one where no beams were asked for.
        finish_reason: Why the stream ended, in its last piece.
        statistics: What else the request asked for; a stream knows its place itself.
    """

    beams: Sequence[NDArray[np.int32]] = (_NO_TOKENS,)
    finish_reason: Ending = ""
    statistics: Mapping[Tensor, NDArray[Any]] = MappingProxyType({})


def encode(stream: Stream, piece: Piece) -> pb_utils.InferenceResponse:
    """The response that carries a piece; a stream's first one takes its context along."""
    lengths = np.array([[beam.size for beam in piece.beams]], dtype=np.int32)
    tensors = [
        triton_tensor(EngineOutputs.OUTPUT_IDS, _side_by_side(piece.beams)),
        triton_tensor(EngineOutputs.SEQUENCE_LENGTH, lengths),
        triton_tensor(EngineOutputs.SEQUENCE_ID, np.array([[stream.id]], dtype=np.uint64)),
    ]
    if piece.finish_reason:
        tensors.append(triton_tensor(EngineOutputs.FINISH_REASON, _text(piece.finish_reason)))
    context = stream.take_context()
    if context is not None:
        tensors.append(triton_tensor(EngineOutputs.STREAM_CONTEXT, _text(context)))
    if stream.session.batch_size > 1:
        tensors.append(triton_tensor(EngineOutputs.BATCH_INDEX, number(stream.batch_index)))
    if stream.session.num_return_sequences > 1:
        tensors.append(triton_tensor(EngineOutputs.SEQUENCE_INDEX, number(stream.sequence_index)))
    tensors += [triton_tensor(*each) for each in piece.statistics.items()]
    return pb_utils.InferenceResponse(tensors)


def number(value: int) -> NDArray[np.int32]:
    """A number as the tensor of one response, int32 ``[1, 1]``."""
    return np.array([[value]], dtype=np.int32)


def _text(value: str | bytes) -> NDArray[Any]:
    data = value.encode() if isinstance(value, str) else value
    return np.array([[data]], dtype=object)


def _side_by_side(beams: Sequence[NDArray[np.int32]]) -> NDArray[np.int32]:
    """Beams of any length as int32 ``[1, beams, tokens]``."""
    if len(beams) == 1:
        return beams[0][None, None]
    ids = np.zeros((1, len(beams), max(beam.size for beam in beams)), dtype=np.int32)
    for row, beam in zip(ids[0], beams, strict=True):
        row[: beam.size] = beam
    return ids
