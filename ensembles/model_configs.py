"""``config.pbtxt`` of each model, from the contract and the settings.

A config is built as Triton's own ``ModelConfig`` message and printed by protobuf: what Triton would
not parse can't be written.
"""

from __future__ import annotations

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from contract.ensemble import ensemble_steps
from contract.model_settings import AdapterSettings, EngineReference, ModelSettings
from contract.models import (
    POSTPROCESSING_MODEL,
    PREPROCESSING_MODEL,
    TENSORRT_LLM_ADAPTER_MODEL,
    TENSORRT_LLM_MODEL,
    ensemble_model,
)
from contract.names import ENSEMBLE, Engine
from contract.nvidia import CPP_BACKEND_MODEL, LLM_API_MODEL
from contract.tensors import Model, Tensor
from ensembles.repository_settings import RepositorySettings

HEADER = "# Rendered by `make repository` from the settings in ensembles/; edit those, not this.\n"


def model_configs(settings: RepositorySettings) -> dict[str, pb.ModelConfig]:
    """The configuration of each model of a repository, by name."""
    if settings.engine == "llm_api":
        config = _llm_api()
        return {config.name: config}
    ours = settings.engine == "onnx"
    exclude_input = (settings.onnx if ours else settings.tensorrt_llm).exclude_input_in_output
    engine = EngineReference(
        engine_model=ensemble_steps(settings.engine)[1].model,
        exclude_input_in_output=exclude_input,
    )
    configs = [
        _python_model(
            PREPROCESSING_MODEL,
            settings.preprocessing,
            settings,
            settings.safety,
            engine,
            instances=settings.preprocessing_instances,
        ),
        # One instance: a stream's pieces find their state there, in order.
        _python_model(
            POSTPROCESSING_MODEL,
            settings.postprocessing,
            settings,
            settings.safety,
            engine,
            decoupled=True,
        ),
        _ensemble(settings, settings.engine),
    ]
    if ours:
        config = _python_model(TENSORRT_LLM_MODEL, settings.onnx, settings, decoupled=True)
        if settings.onnx.execution_provider == "cuda":
            (group,) = config.instance_group
            group.kind = pb.ModelInstanceGroup.KIND_GPU
            group.gpus.append(settings.onnx.device_id)
        configs.append(config)
    else:
        adapter = AdapterSettings(
            exclude_input_in_output=exclude_input,
            liveness_period_ms=settings.tensorrt_llm.cancellation_check_period_ms,
        )
        configs.append(_python_model(TENSORRT_LLM_ADAPTER_MODEL, adapter, settings, decoupled=True))
        configs.append(_cpp_backend(settings))
    return {config.name: config for config in configs}


def render(config: pb.ModelConfig) -> str:
    """A configuration as ``config.pbtxt``."""
    text: str = text_format.MessageToString(config, use_short_repeated_primitives=True)
    return HEADER + text


def _python_model(
    model: Model,
    own: ModelSettings,
    settings: RepositorySettings,
    *shared: ModelSettings,
    instances: int = 1,
    decoupled: bool = False,
) -> pb.ModelConfig:
    """A model on the Python backend.

    Without ``dynamic_batching``: its queue drops requests that were cancelled, and an ensemble that
    loses a decoupled step's request that way never ends (tritonserver 2.51).
    """
    config = _model(model, settings)
    config.backend = "python"
    config.model_transaction_policy.decoupled = decoupled
    group = config.instance_group.add()
    group.count = instances
    group.kind = pb.ModelInstanceGroup.KIND_CPU
    for each in (own, *shared):
        for name, value in each.parameters().items():
            config.parameters[name].string_value = value
    return config


def _cpp_backend(settings: RepositorySettings) -> pb.ModelConfig:
    """The model on TensorRT-LLM's C++ backend, whose own scheduler batches in flight."""
    own = settings.tensorrt_llm
    config = _model(CPP_BACKEND_MODEL, settings)
    config.backend = "tensorrtllm"
    config.model_transaction_policy.decoupled = True
    queue = config.dynamic_batching
    queue.preferred_batch_size.append(settings.max_batch_size)
    queue.max_queue_delay_microseconds = own.max_queue_delay_microseconds
    queue.default_queue_policy.max_queue_size = own.max_queue_size
    group = config.instance_group.add()
    group.count = own.instances
    group.kind = pb.ModelInstanceGroup.KIND_CPU
    for name, value in own.parameters().items():
        config.parameters[name].string_value = value
    return config


def _llm_api() -> pb.ModelConfig:
    """The model on the LLM API; ``model.yaml`` says what its batch size and streaming are."""
    config = pb.ModelConfig(name=LLM_API_MODEL.name, backend="python")
    _describe_all(config, LLM_API_MODEL)
    group = config.instance_group.add()
    group.count = 1
    group.kind = pb.ModelInstanceGroup.KIND_CPU
    return config


def _ensemble(settings: RepositorySettings, engine: Engine) -> pb.ModelConfig:
    config = _model(ensemble_model(engine), settings)
    config.platform = ENSEMBLE
    for step in ensemble_steps(engine):
        entry = config.ensemble_scheduling.step.add()
        entry.model_name = step.model
        entry.model_version = -1
        entry.input_map.update(step.input_map)
        entry.output_map.update(step.output_map)
    return config


def _model(model: Model, settings: RepositorySettings) -> pb.ModelConfig:
    config = pb.ModelConfig(name=model.name, max_batch_size=settings.max_batch_size)
    _describe_all(config, model)
    return config


def _describe_all(config: pb.ModelConfig, model: Model) -> None:
    for tensor in model.inputs:
        entry = config.input.add()
        _describe(entry, tensor)
        entry.optional = tensor.optional
        entry.allow_ragged_batch = tensor.ragged
    for tensor in model.outputs:
        _describe(config.output.add(), tensor)


def _describe(entry: pb.ModelInput | pb.ModelOutput, tensor: Tensor) -> None:
    entry.name = tensor.name
    entry.data_type = pb.DataType.Value(f"TYPE_{tensor.data_type}")
    entry.dims.extend(tensor.dims)
    if tensor.scalar:
        entry.reshape.SetInParent()
