"""``config.pbtxt``: what is rendered, and that Triton would read the same."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from contract.ensemble import ensemble_steps
from contract.model_settings import (
    AdapterSettings,
    OnnxEngineSettings,
    PostprocessingParameters,
    PostprocessingSettings,
    PreprocessingParameters,
    SafetySettings,
    from_model_config,
)
from contract.models import (
    ENSEMBLE_MODEL,
    POSTPROCESSING_MODEL,
    PREPROCESSING_MODEL,
    TENSORRT_LLM_MODEL,
)
from contract.settings_base import Settings
from contract.tensors import Model, Tensor, optional
from ensembles.cpp_backend import CppBackendSettings
from ensembles.model_configs import render
from ensembles.repository import model_configs
from ensembles.repository_settings import RepositorySettings
from tests.contract import declared

REPOSITORY = Path(__file__).parents[2] / "model_repository"
MODELS = {
    model.name: model
    for model in (ENSEMBLE_MODEL, PREPROCESSING_MODEL, TENSORRT_LLM_MODEL, POSTPROCESSING_MODEL)
}
DEFAULTS = model_configs(RepositorySettings())
OTHERS = model_configs(
    RepositorySettings(
        max_batch_size=3,
        preprocessing_instances=2,
        onnx=OnnxEngineSettings(engine_dir='a "b" \\ c\n猫', num_threads=1),
        postprocessing=PostprocessingSettings(skip_special_tokens=False),
        safety=SafetySettings(policy_file="other.yaml"),
    )
)


@pytest.mark.parametrize("config", [*DEFAULTS.values(), *OTHERS.values()], ids=lambda c: c.name)
def test_triton_reads_what_was_meant(config: pb.ModelConfig) -> None:
    assert text_format.Parse(render(config), pb.ModelConfig()) == config


@pytest.mark.parametrize("name", MODELS)
def test_the_committed_repository_has_the_default_settings(name: str) -> None:
    committed = (REPOSITORY / name / "config.pbtxt").read_text(encoding="utf-8")
    assert committed == render(DEFAULTS[name]), "run `python -m ensembles`"


@pytest.mark.parametrize("model", MODELS.values(), ids=lambda model: model.name)
def test_a_config_has_the_tensors_of_the_contract(model: Model) -> None:
    config = DEFAULTS[model.name]
    for entries, tensors in ((config.input, model.inputs), (config.output, model.outputs)):
        for entry, tensor in zip(entries, tensors, strict=True):
            assert entry.name == tensor.name
            assert pb.DataType.Name(entry.data_type) == f"TYPE_{tensor.data_type}"
            assert tuple(entry.dims) == tensor.dims
            assert list(entry.reshape.shape) == []
            # Triton's Python backend dies of a request of no rows; see `_mind_empty_batches`.
            assert entry.HasField("reshape") == (tensor.scalar and tensor.optional)
    for entry, tensor in zip(config.input, model.inputs, strict=True):
        assert entry.optional == tensor.optional
        assert entry.allow_ragged_batch == tensor.ragged


@pytest.mark.parametrize("engine", ["onnx", "tensorrt_llm"])
@pytest.mark.parametrize(
    "name", ["ensemble", "preprocessing", "tensorrt_llm", "postprocessing", "tensorrt_llm_adapter"]
)
def test_what_nvidias_programs_look_for_is_rendered_as_nvidia_declares_it(
    engine: str, name: str
) -> None:
    config = model_configs(RepositorySettings.model_validate({"engine": engine})).get(name)
    if config is None:
        return
    theirs = declared.read(name.removesuffix("_adapter"))
    for entries, known in ((config.input, theirs.inputs), (config.output, theirs.outputs)):
        shared = [entry for entry in entries if entry.name in known]
        assert shared
        for entry in shared:
            tensor = known[entry.name]
            assert pb.DataType.Name(entry.data_type) == f"TYPE_{tensor.data_type}"
            assert tuple(entry.dims) == tensor.dims
    for entry in config.input:
        tensor = known_input(theirs, entry.name)
        assert (entry.optional, entry.allow_ragged_batch) == (tensor.optional, tensor.ragged)


def known_input(theirs: declared.Declared, name: str) -> Tensor:
    """What NVIDIA declares, or of ours what harms none of its clients: that it may be left out."""
    return theirs.inputs.get(name) or optional(name, "")


def test_the_ensemble_has_the_steps_of_the_contract() -> None:
    config = DEFAULTS["ensemble"]
    assert config.platform == "ensemble"
    for entry, step in zip(config.ensemble_scheduling.step, ensemble_steps(), strict=True):
        assert entry.model_name == step.model
        assert entry.model_version == -1
        assert dict(entry.input_map) == step.input_map
        assert dict(entry.output_map) == step.output_map


S = TypeVar("S", bound=Settings)


def read(kind: type[S], config: pb.ModelConfig) -> S:
    """Settings as the model itself reads them."""
    parameters = {
        name: {"string_value": parameter.string_value}
        for name, parameter in config.parameters.items()
    }
    return from_model_config(kind, {"name": config.name, "parameters": parameters})


def test_settings_show_in_the_configs() -> None:
    assert {config.max_batch_size for config in OTHERS.values()} == {3}
    assert OTHERS["preprocessing"].instance_group[0].count == 2
    engine = read(OnnxEngineSettings, OTHERS["tensorrt_llm"])
    assert engine == OnnxEngineSettings(engine_dir='a "b" \\ c\n猫', num_threads=1)
    assert read(PreprocessingParameters, OTHERS["preprocessing"]).policy_file == "other.yaml"
    answers = read(PostprocessingParameters, OTHERS["postprocessing"])
    assert answers.policy_file == "other.yaml"
    assert not answers.skip_special_tokens


def test_streams_leave_in_pieces_and_find_their_state() -> None:
    decoupled = {name: DEFAULTS[name].model_transaction_policy.decoupled for name in DEFAULTS}
    assert decoupled == {
        "preprocessing": False,
        "tensorrt_llm": True,
        "postprocessing": True,
        "ensemble": False,
    }
    assert DEFAULTS["tensorrt_llm"].instance_group[0].count == 1
    assert DEFAULTS["postprocessing"].instance_group[0].count == 1


def test_an_engine_for_cuda_belongs_to_its_gpu() -> None:
    settings = RepositorySettings.from_assignments(
        ["onnx.execution_provider=cuda", "onnx.device_id=3"]
    )
    configs = model_configs(settings)
    (group,) = configs["tensorrt_llm"].instance_group
    assert (group.kind, list(group.gpus), group.count) == (group.KIND_GPU, [3], 1)
    assert configs["postprocessing"].instance_group[0].kind == group.KIND_CPU


@pytest.mark.parametrize("name", MODELS)
def test_no_queue_drops_cancelled_requests(name: str) -> None:
    assert not DEFAULTS[name].HasField("dynamic_batching")


def test_tensorrt_llms_own_engine_has_its_adapter_before_it() -> None:
    settings = RepositorySettings(
        engine="tensorrt_llm", tensorrt_llm=CppBackendSettings(exclude_input_in_output=False)
    )
    configs = model_configs(settings)
    assert set(configs) - DEFAULTS.keys() == {"tensorrt_llm_adapter"}
    assert configs["ensemble"].ensemble_scheduling.step[1].model_name == "tensorrt_llm_adapter"
    assert configs["tensorrt_llm_adapter"].model_transaction_policy.decoupled
    answers = read(PostprocessingParameters, configs["postprocessing"])
    assert answers.engine_model == "tensorrt_llm_adapter"
    adapter = read(AdapterSettings, configs["tensorrt_llm_adapter"])
    assert not adapter.exclude_input_in_output
    for ours in ("liveness_probes", "stream_context", "sequence_id"):
        assert f'"{ours}"' not in render(configs["tensorrt_llm"])
    assert not read(PreprocessingParameters, configs["preprocessing"]).exclude_input_in_output
    for ours in (
        "priority",
        "min_p",
        "fit_max_tokens",
        "prompt_ignore_length",
        "top_tokens",
        "top_log_probs",
    ):
        assert f'"{ours}"' in render(DEFAULTS["ensemble"])
        assert f'"{ours}"' not in render(configs["ensemble"])


@pytest.mark.parametrize("engine", ["onnx", "tensorrt_llm"])
def test_a_repository_without_decoupled_mode_has_no_decoupled_model(engine: str) -> None:
    settings = {"engine": engine, "decoupled_mode": False}
    configs = model_configs(RepositorySettings.model_validate(settings))
    assert not any(each.model_transaction_policy.decoupled for each in configs.values())
    assert not read(PreprocessingParameters, configs["preprocessing"]).decoupled
    assert not read(PostprocessingParameters, configs["postprocessing"]).decoupled


def test_the_prompt_is_part_of_an_answer_by_default_as_nvidia_documents_it() -> None:
    for kind in (OnnxEngineSettings, CppBackendSettings, AdapterSettings, PreprocessingParameters):
        assert kind().exclude_input_in_output is False


def test_the_llm_apis_own_model_has_a_setting_of_its_own() -> None:
    with pytest.raises(ValueError, match=r"llm_api\.triton_config\.decoupled"):
        RepositorySettings.model_validate({"engine": "llm_api", "decoupled_mode": False})
