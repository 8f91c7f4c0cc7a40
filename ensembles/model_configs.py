"""``config.pbtxt`` of a model, from the contract and its settings.

A config is built as Triton's own ``ModelConfig`` message and printed by protobuf: what Triton would
not parse can't be written.
"""

from __future__ import annotations

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from contract.ensemble import ensemble_steps
from contract.model_settings import ModelSettings
from contract.models import ensemble_model
from contract.names import ENSEMBLE, Engine
from contract.tensors import Model, Tensor

HEADER = "# Rendered by `make repository` from the settings in ensembles/; edit those, not this.\n"


def render(config: pb.ModelConfig) -> str:
    """A configuration as ``config.pbtxt``."""
    text: str = text_format.MessageToString(config, use_short_repeated_primitives=True)
    return HEADER + text


def python_model(
    model: Model,
    max_batch_size: int,
    *settings: ModelSettings,
    instances: int = 1,
    decoupled: bool = False,
) -> pb.ModelConfig:
    """A model on the Python backend.

    Without ``dynamic_batching``: its queue drops requests that were cancelled, and an ensemble that
    loses a decoupled step's request that way never ends (tritonserver 2.51).

    Args:
        model: Its tensors.
        max_batch_size: Most rows of a request.
        settings: What it is told.
        instances: Processes side by side.
        decoupled: Whether it answers a request as often as it likes.
    """
    config = model_config(model, max_batch_size)
    config.backend = "python"
    config.model_transaction_policy.decoupled = decoupled
    _mind_empty_batches(config)
    group = config.instance_group.add()
    group.count = instances
    group.kind = pb.ModelInstanceGroup.KIND_CPU
    for each in settings:
        for name, value in each.parameters().items():
            config.parameters[name].string_value = value
    return config


def ensemble_config(engine: Engine, max_batch_size: int) -> pb.ModelConfig:
    """The ensemble around an engine."""
    config = model_config(ensemble_model(engine), max_batch_size)
    config.platform = ENSEMBLE
    for step in ensemble_steps(engine):
        entry = config.ensemble_scheduling.step.add()
        entry.model_name = step.model
        entry.model_version = -1
        entry.input_map.update(step.input_map)
        entry.output_map.update(step.output_map)
    return config


def _mind_empty_batches(config: pb.ModelConfig) -> None:
    """Have Triton refuse a request of no rows, of which its Python backend dies.

    It looks at the size of an input only where that is not reshaped, so one that every request has
    must not be. To the model that is the same: one value a row.
    """
    for entry in config.input:
        if not entry.optional:
            entry.ClearField("reshape")


def model_config(model: Model, max_batch_size: int) -> pb.ModelConfig:
    """A model's name and tensors; who runs it is for the caller to say."""
    config = pb.ModelConfig(name=model.name, max_batch_size=max_batch_size)
    for tensor in model.inputs:
        entry = config.input.add()
        _describe(entry, tensor)
        entry.optional = tensor.optional
        entry.allow_ragged_batch = tensor.ragged
    for tensor in model.outputs:
        _describe(config.output.add(), tensor)
    return config


def _describe(entry: pb.ModelInput | pb.ModelOutput, tensor: Tensor) -> None:
    entry.name = tensor.name
    entry.data_type = pb.DataType.Value(f"TYPE_{tensor.data_type}")
    entry.dims.extend(tensor.dims)
    if tensor.scalar:
        entry.reshape.SetInParent()
