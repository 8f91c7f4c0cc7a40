"""What a request to ``preprocessing`` asks of its chats' answers, from tensors and to tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from contract.bounds import MAX_GUIDE_BYTES, Bound
from contract.guides import Guide
from contract.models import EnsembleInputs
from contract.models import PreprocessingInputs as _In
from contract.models import PreprocessingOutputs as _Out
from contract.tensors import Tensor
from contract.tool_choice import ToolChoice
from python_backend.serving.triton_api import Inputs, triton_tensor
from python_backend.tools.chat_options import ChatOptions, Plan

_WORD = Bound(1, 256)
_GUIDE = Bound(1, MAX_GUIDE_BYTES)


def read_options(inputs: Inputs, batch: int) -> list[ChatOptions]:
    """What each row asks for.

    Raises:
        InvalidRequestError: Something that can't be.
    """

    def words(tensor: Tensor, shown: Tensor, bound: Bound = _WORD) -> list[str]:
        rows = inputs.texts(tensor, shown.name, bound)
        return [row[0] for row in rows] if rows else [""] * batch

    def values(tensor: Tensor, default: Any) -> list[Any]:
        return inputs.scalars(tensor, batch) or [default] * batch

    rows = zip(
        words(_In.TOOL_CHOICE, EnsembleInputs.TOOL_CHOICE),
        values(_In.PARALLEL_TOOL_CALLS, True),
        words(_In.REASONING_EFFORT, EnsembleInputs.REASONING_EFFORT),
        values(_In.THINKING_TOKEN_BUDGET, None),
        values(_In.PARSE_ANSWER, False),
        _guides(
            words(_In.GUIDED_DECODING_GUIDE_TYPE, EnsembleInputs.GUIDED_DECODING_GUIDE_TYPE),
            words(_In.GUIDED_DECODING_GUIDE, EnsembleInputs.GUIDED_DECODING_GUIDE, _GUIDE),
        ),
        strict=True,
    )
    return [
        ChatOptions(ToolChoice.of(choice), parallel, effort, budget, parse, guide)
        for choice, parallel, effort, budget, parse, guide in rows
    ]


def _guides(types: list[str], texts: list[str]) -> list[Guide | None]:
    return [Guide.of(each, text) for each, text in zip(types, texts, strict=True)]


def plan_tensors(plans: Sequence[Plan]) -> list[pb_utils.Tensor]:
    """What the engine is told of the answers; nothing where there is nothing to say."""
    tensors: dict[Tensor, NDArray[Any]] = {}
    if any(plan.guide for plan in plans):
        guides = [plan.guide for plan in plans]
        tensors[_Out.GUIDE_TYPE] = _texts([guide.type if guide else "" for guide in guides])
        tensors[_Out.GUIDE] = _texts([guide.text if guide else "" for guide in guides])
    if any(plan.thinking for plan in plans):
        bounds = [plan.thinking for plan in plans]
        budgets = [[bound.budget if bound else -1] for bound in bounds]
        tensors[_Out.THINKING_BUDGET] = np.array(budgets, dtype=np.int32)
        tensors[_Out.THINKING_BEGIN_IDS] = _tokens(
            [bound.begin if bound else () for bound in bounds]
        )
        tensors[_Out.THINKING_END_IDS] = _tokens([bound.end if bound else () for bound in bounds])
        tensors[_Out.THINKING_CLOSE_IDS] = _tokens(
            [bound.close if bound else () for bound in bounds]
        )
    return [triton_tensor(*each) for each in tensors.items()]


def _texts(texts: list[str]) -> NDArray[Any]:
    return np.array([[text.encode()] for text in texts], dtype=object)


def _tokens(rows: list[tuple[int, ...]]) -> NDArray[np.int32]:
    """Tokens of each row; -1 fills up the shorter ones."""
    width = max(1, *map(len, rows))
    ids = np.full((len(rows), width), -1, dtype=np.int32)
    for row, tokens in zip(ids, rows, strict=True):
        row[: len(tokens)] = tokens
    return ids
