"""Triton loads this as ``tensorrt_llm`` in tests: the engine itself, with a brake.

A fast engine is done before a test has looked, so tests make certain that what they start still
runs: while the file ``brake`` lies in the model repository, each step takes as many seconds as it
says (``Server.braked``), and one that is under way ends as it is taken away. With
``SLOW_ENGINE=10`` in the environment every step takes ten times as long as it would, to see how
tests fare on a slow machine.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from contract.model_settings import OnnxEngineSettings
from python_backend.engine.onnx_engine import OnnxEngine
from python_backend.engine.sequence import Sequence
from python_backend.serving import onnx_model

_TIMES = float(os.environ.get("SLOW_ENGINE") or 1)
_LOOK_S = 0.05


class TritonPythonModel(onnx_model.TritonPythonModel):
    """Generates tokens for many requests at once, as slowly as it is told."""

    def load(self, args: dict[str, str]) -> tuple[OnnxEngine, OnnxEngineSettings]:
        engine, settings = super().load(args)
        brake = Path(args["model_repository"]).parent / "brake"
        step = engine.step

        def least_s() -> float:
            try:
                return float(brake.read_text())
            except FileNotFoundError:
                return 0.0

        def slow_step() -> list[Sequence]:
            clocks = (time.monotonic, time.process_time)  # what else runs here slows it no further
            started_s = [clock() for clock in clocks]
            advanced = step()
            took_s = min(clock() - start for clock, start in zip(clocks, started_s, strict=True))
            time.sleep(took_s * (_TIMES - 1))
            computed_s = time.monotonic()
            while (left_s := least_s() - took_s - (time.monotonic() - computed_s)) > 0:
                time.sleep(min(left_s, _LOOK_S))
            return advanced

        engine.step = slow_step  # type: ignore[method-assign]
        return engine, settings


__all__ = ["TritonPythonModel"]
