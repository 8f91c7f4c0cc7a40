"""``python -m build.tensorrt_llm``: what of a build runs in ModelOpt's own environment.

:mod:`build.tensorrt_llm.builder` starts it. Steps go to stderr; an error is one line on stdout.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from build.build_errors import BuildError
from build.recipe import TensorRTLLMCalibration
from build.tensorrt_llm.texts import read_texts
from build.tensorrt_llm.trtllm_settings import MODELOPT, TensorRTLLMTarget
from contract.errors import TriremeError


def main(arguments: Sequence[str] | None = None) -> int:
    """Quantize a checkpoint; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m build.tensorrt_llm", description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("output", type=Path, help="gets a folder for each form")
    parser.add_argument("--target", required=True, help="the recipe's target, as JSON")
    parser.add_argument("--calibration", required=True, help="the recipe's calibration, as JSON")
    options = parser.parse_args(arguments)
    try:
        with redirect_stdout(sys.stderr):  # ModelOpt talks
            _quantize(options)
    except (TriremeError, OSError) as error:
        print(error)
        return 1
    return 0


def _quantize(options: argparse.Namespace) -> None:
    try:
        found = version("nvidia-modelopt")
    except PackageNotFoundError:
        found = "not there"
    if found != MODELOPT:
        raise BuildError(f"{sys.executable} should have ModelOpt {MODELOPT}, which is {found}")
    from build.tensorrt_llm.modelopt_quantize import quantize_checkpoint

    calibration = TensorRTLLMCalibration.model_validate_json(options.calibration)
    quantize_checkpoint(
        options.checkpoint,
        options.output,
        TensorRTLLMTarget.model_validate_json(options.target),
        read_texts(calibration.text),
        calibration,
        say=lambda step: print(step, flush=True),
    )


if __name__ == "__main__":
    sys.exit(main())
