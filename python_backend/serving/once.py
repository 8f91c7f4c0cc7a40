"""What a model answers that isn't decoupled: a request once, and so one answer to one prompt."""

from __future__ import annotations

from typing import Any

from contract.errors import InvalidRequestError
from contract.models import EngineInputs
from contract.tensors import Tensor

_WHY = "in decoupled mode, and this model repository was assembled with decoupled_mode=false"


def is_decoupled(config: dict[str, Any]) -> bool:
    """Whether a model answers a request as often as it likes, by Triton's configuration of it."""
    return bool(config["model_transaction_policy"]["decoupled"])


def check_single(batch: int, copies: int) -> None:
    """Refuse what has more than one answer.

    Args:
        batch: How many prompts a request has.
        copies: How many continuations of each it asks for.

    Raises:
        InvalidRequestError: There would be more than one.
    """
    if batch > 1:
        raise InvalidRequestError(
            f"the request has {batch} prompts; more than one is only answered {_WHY}"
        )
    if copies > 1:
        name = EngineInputs.NUM_RETURN_SEQUENCES.name
        raise InvalidRequestError(
            f"{name} is {copies}; more than one is only answered {_WHY}", name
        )


def check_whole(streams: bool, tensor: Tensor) -> None:
    """Refuse to stream.

    Args:
        streams: Whether the request asks for it.
        tensor: By which input.

    Raises:
        InvalidRequestError: It does.
    """
    if streams:
        raise InvalidRequestError(
            f"{tensor.name} is true; streaming is only supported {_WHY}", tensor.name
        )
