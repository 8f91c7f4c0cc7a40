"""Triton loads this as ``tensorrt_llm`` in tests: the engine itself, with a brake.

A fast engine is done before a test has looked, so tests make certain that what they start still
runs: while the file ``brake`` lies in the model repository, each step takes as many seconds as it
says (``Server.braked``). With ``SLOW_ENGINE=10`` in the environment every step takes ten times as
long as it would, to see how tests fare on a slow machine.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from python_backend.engine.onnx_engine import Engine
from python_backend.engine.sequence import Sequence
from python_backend.serving import tensorrt_llm

_TIMES = float(os.environ.get("SLOW_ENGINE") or 1)


class TritonPythonModel(tensorrt_llm.TritonPythonModel):
    """Generates tokens for many requests at once, as slowly as it is told."""

    def initialize(self, args: dict[str, str]) -> None:
        brake = Path(args["model_repository"]).parent / "brake"
        step = Engine.step

        def slow_step(engine: Engine) -> list[Sequence]:
            clocks = (time.monotonic, time.process_time)  # what else runs here slows it no further
            started_s = [clock() for clock in clocks]
            advanced = step(engine)
            took_s = min(clock() - start for clock, start in zip(clocks, started_s, strict=True))
            try:
                least_s = float(brake.read_text())
            except FileNotFoundError:
                least_s = 0.0
            time.sleep(max(took_s * (_TIMES - 1), least_s - took_s, 0))
            return advanced

        Engine.step = slow_step  # type: ignore[assignment,method-assign]
        super().initialize(args)


__all__ = ["TritonPythonModel"]
