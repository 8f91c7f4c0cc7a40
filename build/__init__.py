"""Checkpoint to engine: everything that happens before the ship sails."""

import python_backend  # noqa: F401 - before anything imports ONNX Runtime
