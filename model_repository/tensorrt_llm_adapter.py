"""What Triton loads as ``tensorrt_llm_adapter``, in a repository for TensorRT-LLM's C++ backend.

``python -m ensembles --set engine=tensorrt_llm`` links it there. It is a file here and no folder,
so that Triton doesn't take it for a model beside the ONNX Runtime engine.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from python_backend.serving.adapter_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
