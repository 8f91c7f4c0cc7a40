"""Measuring Trireme, and Trireme beside its peers."""

import python_backend  # noqa: F401 - before anything imports ONNX Runtime
