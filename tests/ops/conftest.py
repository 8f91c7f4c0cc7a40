"""A model repository small enough to load in a second, with the ensemble's inputs."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract.models import ENSEMBLE_MODEL
from contract.tensors import Tensor


def _tensor(tensor: Tensor) -> str:
    optional = " optional: true" if tensor.optional else ""
    dims = list(tensor.dims)
    return f'{{ name: "{tensor.name}" data_type: TYPE_{tensor.data_type} dims: {dims}{optional} }}'


CONFIG = f"""
backend: "python"
max_batch_size: 8
model_transaction_policy {{ decoupled: true }}
input [ {", ".join(map(_tensor, ENSEMBLE_MODEL.inputs))} ]
output [ {{ name: "text_output" data_type: TYPE_STRING dims: [ 1 ] }} ]
instance_group [ {{ kind: KIND_CPU }} ]
"""

MODEL = """
import sys

import numpy as np
import triton_python_backend_utils as pb_utils

import python_backend


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            text = pb_utils.get_input_tensor_by_name(request, "text_input").as_numpy()
            count = pb_utils.get_input_tensor_by_name(request, "max_tokens").as_numpy().item()
            stream = pb_utils.get_input_tensor_by_name(request, "stream")
            pieces = [sys.prefix.encode() + b" " + text.item()] * count
            if stream is None or not stream.as_numpy().item():
                pieces = [b"".join(pieces)]
            sender = request.get_response_sender()
            for piece in pieces:
                output = pb_utils.Tensor("text_output", np.array([[piece]], dtype=np.object_))
                sender.send(pb_utils.InferenceResponse([output]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""


def write_model(repository: Path, source: str = MODEL, config: str = CONFIG) -> Path:
    """Write one model named `ensemble`; returns the repository."""
    version = repository / "ensemble" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(source)
    (version.parent / "config.pbtxt").write_text(config)
    return repository


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return write_model(tmp_path / "repository")


def processes_of_group(group: int) -> list[int]:
    """The process ids of a process group, without those that only wait to be reaped."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:  # ended meanwhile
            continue
        # Fields after the name in parentheses: state, parent, process group.
        state, _, process_group = text.rpartition(")")[2].split()[:3]
        if int(process_group) == group and state != "Z":
            found.append(int(stat.parent.name))
    return found
