"""What Triton loads as ``tensorrt_llm``. The model itself lives in ``python_backend/serving``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from python_backend.serving.onnx_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
