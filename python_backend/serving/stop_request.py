"""How a request is ended from outside, which works for every engine: see `contract.stopping`."""

from __future__ import annotations

from dataclasses import dataclass

import triton_python_backend_utils as pb_utils

from contract.errors import InvalidRequestError
from contract.models import EngineInputs
from contract.stopping import stop_inputs
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
    inputs = stop_inputs(sequence_id, client_gone=client_gone)
    tensors = [triton_tensor(*each) for each in inputs.items()]
    return pb_utils.InferenceRequest(
        model_name=model, request_id=request_id, requested_output_names=[], inputs=tensors
    )
