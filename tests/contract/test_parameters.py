"""The table of parameters: what follows from its rows, and that all who follow it agree."""

from __future__ import annotations

import typing
from dataclasses import MISSING, fields
from math import inf, nan

import pytest

from contract.errors import InvalidRequestError
from contract.models import ENSEMBLE_MODEL, TENSORRT_LLM_MODEL, EngineInputs, EnsembleInputs
from contract.parameter import Bounds, Parameter
from contract.parameters import (
    OUR_ROWS,
    ROWS,
    SAMPLED,
    GenerationParameters,
    ParameterKeywords,
)
from python_backend.engine.sequence import SamplingParams


def test_the_keywords_are_the_fields() -> None:
    keywords = typing.get_type_hints(ParameterKeywords)
    assert keywords == typing.get_type_hints(GenerationParameters)
    assert list(keywords) == list(ROWS)


def test_every_row_says_what_it_means_also_in_the_docstring() -> None:
    for name, row in ROWS.items():
        assert row.meaning.endswith(".")
        assert f"    {name}: {row.meaning}" in (GenerationParameters.__doc__ or "")


def test_every_row_s_tensors_are_the_contract_s() -> None:
    inputs = {tensor.name: tensor for tensor in ENSEMBLE_MODEL.inputs}
    engine = {tensor.name: tensor for tensor in TENSORRT_LLM_MODEL.inputs}
    for row in ROWS.values():
        assert inputs[row.tensor.name] == row.tensor
        assert row.engine is None or engine[row.engine.name] == row.engine


def test_what_is_ours_is_in_the_contract_without_being_spelt_there() -> None:
    assert {row.name for row in OUR_ROWS} >= {"min_p", "num_top_log_probs"}
    assert set(EngineInputs.own()) == {
        EngineInputs.PRIORITY,
        EngineInputs.RETURN_COMPUTED_TOKENS,
        EngineInputs.RETURN_PROMPT_TOKENS,
        EngineInputs.THINKING_BUDGET,
        EngineInputs.THINKING_BEGIN_IDS,
        EngineInputs.THINKING_END_IDS,
        EngineInputs.THINKING_CLOSE_IDS,
        *EngineInputs.SAMPLED,
    }
    assert set(EnsembleInputs.own()) == set(EnsembleInputs.SAMPLED)


def test_the_engine_has_a_field_for_each_row_that_it_samples_by_and_its_default() -> None:
    engine = {each.name: each.default for each in fields(SamplingParams)}
    for row in SAMPLED.values():
        assert engine[row.name] == (MISSING if row.default is None else row.default)


@pytest.mark.parametrize(
    ("bounds", "within", "outside", "said"),
    [
        (Bounds(least=0), (0, 1e30), (-1, nan), "0 or more"),
        (Bounds(least=1), (1,), (0,), "at least 1"),
        (Bounds(least=0, most=1), (0, 0.5, 1), (-0.1, 1.1, nan, inf), "between 0 and 1"),
        (Bounds(above=0), (0.1,), (0, -1, nan), "above 0"),
        (Bounds(), (-1e30, 0), (), ""),
    ],
)
def test_bounds(
    bounds: Bounds, within: tuple[float, ...], outside: tuple[float, ...], said: str
) -> None:
    assert all(map(bounds.hold, within))
    assert not any(map(bounds.hold, outside))
    assert not said or str(bounds) == said


@pytest.mark.parametrize("value", [nan, inf, -inf])
@pytest.mark.parametrize("row", SAMPLED.values(), ids=lambda row: row.name)
def test_the_engine_takes_finite_numbers_alone(row: Parameter, value: float) -> None:
    with pytest.raises(InvalidRequestError, match=f"^{row.name} is {value:g}; it must be "):
        row.check(value)


def test_parameters_become_the_inputs_that_carry_them() -> None:
    parameters = GenerationParameters(
        max_tokens=3,
        top_k=0,
        stop_words=["."],
        logit_bias={5: 1.0, 7: -1.0},
        return_log_probs=False,
        messages=[{"role": "user", "content": "Où ?"}],
    )
    assert parameters.inputs() == {
        "max_tokens": (3,),
        "top_k": (0,),
        "stop_words": (".",),
        "embedding_bias_ids": (5, 7),
        "embedding_bias_weights": (1.0, -1.0),
        "return_log_probs": (False,),
        "messages": ('[{"role": "user", "content": "Où ?"}]',),
    }


def test_a_bound_that_is_named_is_one_whatever_it_is():
    # 0 says so, and does not leave it to the server.
    assert "top_p" not in GenerationParameters(temperature=0.5, top_k=0).inputs()
    assert GenerationParameters(temperature=0.5, top_p=0.0).inputs()["top_p"] == (0.0,)
    assert GenerationParameters(temperature=0.5).inputs()["top_p"] == (1.0,)
