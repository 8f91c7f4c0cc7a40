"""Settings: checked where they are rendered and where they are read back, and never dropped."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.model_settings import (
    ModelSettings,
    OnnxEngineSettings,
    PostprocessingSettings,
    PreprocessingSettings,
    from_model_config,
)
from contract.settings_base import SettingsError, parse


def model_config(**parameters: str) -> dict[str, Any]:
    """What Triton hands a model, as far as parameters go."""
    values = {name: {"string_value": text} for name, text in parameters.items()}
    return {"name": "tensorrt_llm", "parameters": values}


PREPROCESSING = st.builds(
    PreprocessingSettings,
    tokenizer_dir=st.text() | st.sampled_from(["1", "true", "null", '"quoted"', "[]"]),
    add_special_tokens=st.booleans(),
    chat_template=st.sampled_from(["auto", "on", "off"]),
)
ENGINE = st.builds(
    OnnxEngineSettings,
    engine_dir=st.text() | st.just("1"),
    max_num_sequences=st.integers(1, 1024),
    max_num_tokens=st.integers(1, 1_048_576),
    num_threads=st.integers(0, 1024),
    exclude_input_in_output=st.booleans(),
    cancellation_check_period_ms=st.integers(1, 60_000),
)
POSTPROCESSING = st.builds(
    PostprocessingSettings,
    skip_special_tokens=st.booleans(),
)


@given(settings=PREPROCESSING | ENGINE | POSTPROCESSING)
def test_settings_travel_through_tritons_configuration(settings: ModelSettings) -> None:
    assert from_model_config(type(settings), model_config(**settings.parameters())) == settings


def test_parameters_are_as_a_person_would_write_them() -> None:
    assert PostprocessingSettings(tokenizer_dir="a b").parameters() == {
        "tokenizer_dir": "a b",
        "skip_special_tokens": "true",
        "forget_after_s": "600",
    }


def test_what_is_left_out_has_its_default() -> None:
    assert from_model_config(OnnxEngineSettings, {"name": "tensorrt_llm"}) == OnnxEngineSettings()


def test_tritons_own_parameters_are_not_ours() -> None:
    config = model_config(
        FORCE_CPU_ONLY_INPUT_TENSORS="yes", EXECUTION_ENV_PATH="/env.tar.gz", num_threads="2"
    )
    assert from_model_config(OnnxEngineSettings, config) == OnnxEngineSettings(num_threads=2)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"max_num_seqs": "8"},
            r"tensorrt_llm\.max_num_seqs is not a setting; the nearest is max_num_sequences",
        ),
        (
            {"kv_cache_free_gpu_mem_fraction": "0.9"},
            r"tensorrt_llm\.kv_cache_free_gpu_mem_fraction is not a setting; the nearest is \w+",
        ),
        (
            {"max_num_sequences": "0"},
            r"tensorrt_llm\.max_num_sequences is 0: input should be greater than or equal to 1",
        ),
        (
            {"max_num_sequences": "1025"},
            r"tensorrt_llm\.max_num_sequences is 1025: input should be less than or equal to 1024",
        ),
        (
            {"num_threads": "many"},
            r"tensorrt_llm\.num_threads is 'many': input should be a valid integer",
        ),
        ({"exclude_input_in_output": "2"}, r"tensorrt_llm\.exclude_input_in_output is 2: .*bool"),
    ],
)
def test_a_parameter_that_does_not_hold_is_named(parameters: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=f"^{message}"):
        from_model_config(OnnxEngineSettings, model_config(**parameters))


def test_every_wrong_setting_is_named_at_once() -> None:
    values = {"tokenizer_dir": 1, "skip_special_token": True}
    with pytest.raises(SettingsError) as error:
        parse(PostprocessingSettings, values, group="postprocessing")
    assert str(error.value) == (
        "postprocessing.tokenizer_dir is 1: input should be a valid string; "
        "postprocessing.skip_special_token is not a setting; the nearest is skip_special_tokens"
    )


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        OnnxEngineSettings().num_threads = 1
