"""How a request is ended from outside: TensorRT-LLM's own way, that works for every engine.

A second request to the engine's model has ``stop`` and the request id of the first. Clients may
share ids or leave them out, so ours may name one sequence in its stead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import triton_python_backend_utils as pb_utils

from contract.errors import InvalidRequestError
from contract.models import EngineInputs
from python_backend.serving.triton_api import Inputs, triton_tensor


@dataclass(frozen=True)
class Stop:
    """What is to end: one sequence where its id is given, else all of the requests with an id.

    Attributes:
        sequence_id: The sequence.
        request_id: The requests' id.
        client_gone: Nobody waits for the sequence any more, so its whole request is to end.
    """

    sequence_id: int | None = None
    request_id: str = ""
    client_gone: bool = False


def read_stop(request: pb_utils.InferenceRequest, inputs: Inputs) -> Stop | None:
    """What a request is to end; None where it is no such request.

    Raises:
        InvalidRequestError: It doesn't say what ends.
    """
    stop = inputs.array(EngineInputs.STOP)
    if stop is None or not stop.any():
        return None
    sequence_ids = inputs.scalars(EngineInputs.SEQUENCE_ID, batch=1)
    request_id: str = request.request_id()
    if sequence_ids is None and not request_id:
        raise InvalidRequestError("stop needs a request id or a sequence_id to say what ends")
    gone = inputs.array(EngineInputs.CLIENT_GONE)
    return Stop(
        None if sequence_ids is None else sequence_ids[0],
        request_id,
        client_gone=gone is not None and bool(gone.any()),
    )


def stop_request(
    model: str, request_id: str, sequence_id: int | None = None, *, client_gone: bool = False
) -> pb_utils.InferenceRequest:
    """A request to an engine's model that ends another, or one sequence of it.

    Args:
        model: The engine's model.
        request_id: The request that ends.
        sequence_id: The sequence that ends, where it is not all of them.
        client_gone: The sequence's client went away: it only names the request, which ends.
    """
    tensors = [
        triton_tensor(EngineInputs.INPUT_IDS, np.zeros((1, 1), dtype=np.int32)),
        triton_tensor(EngineInputs.INPUT_LENGTHS, np.ones((1, 1), dtype=np.int32)),
        triton_tensor(EngineInputs.REQUEST_OUTPUT_LEN, np.ones((1, 1), dtype=np.int32)),
        triton_tensor(EngineInputs.STOP, np.ones((1, 1), dtype=bool)),
    ]
    if sequence_id is not None:
        named = np.full((1, 1), sequence_id, dtype=np.uint64)
        tensors.append(triton_tensor(EngineInputs.SEQUENCE_ID, named))
    if client_gone:
        tensors.append(triton_tensor(EngineInputs.CLIENT_GONE, np.ones((1, 1), dtype=bool)))
    return pb_utils.InferenceRequest(
        model_name=model, request_id=request_id, requested_output_names=[], inputs=tensors
    )
