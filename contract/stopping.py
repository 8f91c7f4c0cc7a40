"""What a request to an engine's model says that ends another: TensorRT-LLM's own way.

It has the id of the request that ends, ``stop``, and what every request must have. Clients may
share ids or leave them out, so ours may name one sequence in its stead.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.models import EngineInputs
from contract.tensors import Tensor


def stop_inputs(
    sequence_id: int | None = None, *, client_gone: bool = False
) -> dict[Tensor, NDArray[Any]]:
    """The inputs, each of shape ``[1, 1]``.

    Args:
        sequence_id: The sequence that ends, where it is not all of the request's.
        client_gone: The sequence's client went away: it only names the request, which ends.
    """
    one, yes = np.ones((1, 1), dtype=np.int32), np.ones((1, 1), dtype=bool)
    inputs: dict[Tensor, NDArray[Any]] = {
        EngineInputs.INPUT_IDS: one,
        EngineInputs.INPUT_LENGTHS: one,
        EngineInputs.REQUEST_OUTPUT_LEN: one,
        EngineInputs.STOP: yes,
    }
    if sequence_id is not None:
        inputs[EngineInputs.SEQUENCE_ID] = np.full((1, 1), sequence_id, dtype=np.uint64)
    if client_gone:
        inputs[EngineInputs.CLIENT_GONE] = yes
    return inputs
