"""What Triton hands to a model that generates: requests to begin, and requests to stop."""

from __future__ import annotations

from collections.abc import Callable

import triton_python_backend_utils as pb_utils

from python_backend.serving.stop_request import Stop, read_stop
from python_backend.serving.triton_api import Inputs, refusal

_FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


def answer_all(
    requests: list[pb_utils.InferenceRequest],
    start: Callable[[pb_utils.InferenceRequest, Inputs], None],
    stop: Callable[[Stop], None],
) -> None:
    """Begin what is to begin and end what is to end; a request that is refused is told why."""
    for request in requests:
        try:
            inputs = Inputs(request)
            named = read_stop(request, inputs)
            if named is None:
                start(request, inputs)
            else:
                stop(named)
                request.get_response_sender().send(pb_utils.InferenceResponse([]), flags=_FINAL)
        except Exception as error:  # one request's trouble is not another's
            refuse(request, error)


def refuse(request: pb_utils.InferenceRequest, error: Exception) -> None:
    """Answer a request that was not begun with why."""
    request.get_response_sender().send(refusal(error), flags=_FINAL)
