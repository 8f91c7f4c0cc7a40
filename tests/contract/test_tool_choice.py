"""Whether functions are called: one word that says it, there and back."""

from __future__ import annotations

import pytest

from contract.errors import InvalidRequestError
from contract.tool_choice import ToolChoice


@pytest.mark.parametrize("word", ["auto", "none", "required", "function:get_time", "function:none"])
def test_a_choice_comes_back_as_it_went(word: str) -> None:
    assert str(ToolChoice.of(word)) == word


@pytest.mark.parametrize("word", [None, ""])
def test_the_model_chooses_where_nobody_does(word: str | None) -> None:
    assert ToolChoice.of(word) == ToolChoice("auto")
    assert not ToolChoice.of(word).is_forced


def test_a_call_is_forced_by_two_of_them() -> None:
    assert ToolChoice.of("required").is_forced
    assert ToolChoice.of("function:f") == ToolChoice("named", "f")
    assert ToolChoice.of("function:f").is_forced


@pytest.mark.parametrize("word", ["any", "named", "function:", "function:a b", "f" * 5000])
def test_another_word_is_refused_by_the_input_s_name(word: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"tool_choice is .* auto, none, re") as told:
        ToolChoice.of(word)
    assert told.value.param == "tool_choice"
    assert len(told.value.message) < 200
