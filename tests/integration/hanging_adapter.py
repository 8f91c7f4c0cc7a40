"""Triton loads this as ``tensorrt_llm_adapter`` in a test: the adapter itself, which can be hung.

From the file ``hang`` in the model repository on, the next request stops the process for good, with
the interpreter's lock held, as a lock-up in Triton's Python backend does.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from python_backend.serving import adapter_model


class TritonPythonModel(adapter_model.TritonPythonModel):
    """Gives streams an identity and an end, until it hangs."""

    def initialize(self, args: dict[str, str]) -> None:
        super().initialize(args)
        self._hang = Path(args["model_repository"]).parent / "hang"

    def execute(self, requests: list[Any]) -> None:
        if self._hang.exists():
            ctypes.PyDLL(None).sleep(3600)  # unlike CDLL, it keeps the lock
        super().execute(requests)


__all__ = ["TritonPythonModel"]
