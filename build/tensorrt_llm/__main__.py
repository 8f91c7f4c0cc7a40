"""``python -m build.tensorrt_llm``: from a checkpoint towards a TensorRT-LLM engine.

The checkpoint is quantized and sharded here, on a CPU if need be, and read back. Where
``trtllm-build`` is installed it builds the engine; where it is not, the command that does so in
NVIDIA's container is printed.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

from build.checkpoint import Checkpoint
from build.errors import BuildError
from build.tensorrt_llm.command import PROGRAM, in_container, trtllm_build
from build.tensorrt_llm.model_config import TEXT_FILES
from build.tensorrt_llm.read_back import ReadBack, check, quantization_format
from build.tensorrt_llm.settings import CONTAINER, RELEASE, Form, TensorRTLLMTarget
from python_backend.errors import TriremeError
from python_backend.settings import from_assignments

MISSING = 3
"""Exit code where all is done but the engine, for want of TensorRT-LLM."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        target = from_assignments(TensorRTLLMTarget, options.set)
        return _run(options.checkpoint, options.output, target, options.calibration)
    except (TriremeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m build.tensorrt_llm",
        description=f"Quantize a checkpoint for TensorRT-LLM {RELEASE} and build its engine.",
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="the checkpoint's folder")
    parser.add_argument("--output", type=Path, required=True, help="gets trtllm/, hf/ and engine/")
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="FILE",
        help="texts to measure activations on: one a line, or JSON lines with a `text`",
    )
    parser.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="a setting, such as quantization.format=fp8 or build.max_batch_size=32: "
        "build/tensorrt_llm/settings.py describes them",
    )
    return parser


def _run(
    checkpoint: Path, output: Path, target: TensorRTLLMTarget, calibration: Path | None
) -> int:
    checkpoint, output = checkpoint.resolve(), output.resolve()
    texts = [] if calibration is None else read_texts(calibration)
    output.mkdir(parents=True, exist_ok=True)
    try:
        from build.tensorrt_llm.quantize import quantize_checkpoint
    except ImportError as error:
        raise BuildError(
            f"{error.name} is missing: run this in the environment of requirements/modelopt.txt "
            "(make tensorrt-llm does)"
        ) from None
    with redirect_stdout(sys.stderr):  # ModelOpt talks
        folders = quantize_checkpoint(
            checkpoint, output, target, texts, lambda step: print(step, flush=True)
        )
    with Checkpoint(checkpoint) as opened:
        for form, folder in folders.items():
            _show(form, folder, opened)
    if "trtllm" not in folders:
        return 0
    # What the ensemble's text models read lies beside the engine.
    engine = output / "engine"
    engine.mkdir(exist_ok=True)
    for name in TEXT_FILES:
        if (folders["trtllm"] / name).exists():
            shutil.copyfile(folders["trtllm"] / name, engine / name)
    command = trtllm_build(target.build, folders["trtllm"], engine)
    if shutil.which(PROGRAM) is None:
        print(
            f"\nTensorRT-LLM is not installed here. The checkpoint is complete; this builds its "
            f"engine on a GPU machine,\nin {CONTAINER} (TensorRT-LLM {RELEASE}):\n\n"
            f"{in_container(command, output)}"
        )
        return MISSING
    print(shlex.join(command), flush=True)
    return subprocess.run(command, check=False).returncode


def read_texts(path: Path) -> list[str]:
    """The texts of a file: one a line, or in a ``.jsonl`` file the ``text`` of each object.

    Raises:
        BuildError: A line is not an object with a text.
    """
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if path.suffix != ".jsonl":
        return lines
    texts = []
    for number, line in enumerate(lines, start=1):
        try:
            text = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError):
            text = None
        if not isinstance(text, str):
            raise BuildError(f"{path}:{number} is not a JSON object with a text")
        texts.append(text)
    return texts


def _show(form: Form, folder: Path, checkpoint: Checkpoint) -> None:
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    algorithm = quantization_format(folder, form) or "not quantized"
    found = check(folder, form, checkpoint)
    print(f"{folder}: {algorithm}, {', '.join(files)}")
    for each in _first_layer(found):
        print(
            f"  rank {each.rank}  {each.name:<52} {each.dtype:<8} {list(each.shape)!s:<14} "
            f"off by {each.error:.4f}"
        )
    print(f"  {len(found)} matrices read back, the worst off by {max(e.error for e in found):.4f}")


def _first_layer(found: Sequence[ReadBack]) -> list[ReadBack]:
    return [each for each in found if ".layers.0." in each.name]


if __name__ == "__main__":
    sys.exit(main())
