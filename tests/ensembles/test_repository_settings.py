"""The repository's settings, from the words of a command line."""

from __future__ import annotations

import pytest

from contract.model_settings import OnnxEngineSettings, SafetySettings
from contract.settings_base import SettingsError
from ensembles.repository_settings import RepositorySettings


def test_no_words_are_the_defaults() -> None:
    assert RepositorySettings.from_assignments([]) == RepositorySettings()


def test_words_reach_into_the_models() -> None:
    assignments = [
        "max_batch_size=8",
        "onnx.max_num_sequences=4",
        "onnx.engine_dir=/engines/a=b",
        "safety.policy_file=mine.yaml",
    ]
    assert RepositorySettings.from_assignments(assignments) == RepositorySettings(
        max_batch_size=8,
        onnx=OnnxEngineSettings(max_num_sequences=4, engine_dir="/engines/a=b"),
        safety=SafetySettings(policy_file="mine.yaml"),
    )


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["max_batch_size"], "'max_batch_size' is not a setting; write name=value"),
        (["=1"], "'=1' is not a setting; write name=value"),
        (["onnx..engine_dir=x"], "'onnx..engine_dir=x' is not a setting; write"),
        (["max_batchsize=1"], "max_batchsize is not a setting; the nearest is max_batch_size"),
        (
            ["onnx.max_num_token=1"],
            "onnx.max_num_token is not a setting; the nearest is max_num_tokens",
        ),
        (["max_batch_size=0"], "max_batch_size is 0: input should be greater than or equal to 1"),
        (["engine=vllm"], "engine is 'vllm': input should be 'onnx', 'tensorrt_llm' or"),
        (["tensorrt_llm=1"], "tensorrt_llm is 1: input should be a valid dictionary"),
        (
            ["max_batch_size=8", "max_batch_size.x=1"],
            "max_batch_size.x is not a setting: max_batch_size is a value",
        ),
        (["max_batch_size.x=1"], "max_batch_size is {'x': 1}: input should be a valid integer"),
        (
            ["postprocessing.policy_file=x"],
            "postprocessing.policy_file is not a setting; the nearest is",
        ),
    ],
)
def test_a_wrong_word_is_named(assignments: list[str], message: str) -> None:
    with pytest.raises(SettingsError) as error:
        RepositorySettings.from_assignments(assignments)
    assert str(error.value).startswith(message)
