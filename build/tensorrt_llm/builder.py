"""From a recipe to what TensorRT-LLM serves, as far as this machine can go.

ModelOpt quantizes in an environment of its own, as another process; what it wrote is read back
here. ``trtllm-build`` makes the engine where it is installed. Where it is not, all that was done
stays, and the next build goes on from there.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from build.build_errors import BuildError, UnfinishedError
from build.checkpoint import Checkpoint
from build.recipe import TensorRTLLMCalibration, TensorRTLLMRecipe
from build.tensorrt_llm.command import PROGRAM, in_container, then_rename, trtllm_build
from build.tensorrt_llm.read_back import ReadBack, check, quantization_format
from build.tensorrt_llm.trtllm_config import TEXT_FILES
from build.tensorrt_llm.trtllm_settings import CONTAINER, RELEASE, Form

ENGINE = "engine"


def build_tensorrt_llm(
    recipe: TensorRTLLMRecipe, folder: Path, modelopt: Path, say: Callable[[str], None]
) -> None:
    """Fill a folder: ``trtllm/`` and ``hf/``, as the recipe asks for, and ``engine/``.

    What is there already was finished, and is kept.

    Args:
        recipe: What to build.
        folder: Where; it stays when something fails.
        modelopt: The Python of the environment of ``requirements/modelopt.txt``.
        say: Told what is being done.

    Raises:
        UnfinishedError: All is done but the engine, for want of TensorRT-LLM on this machine.
        BuildError: The checkpoint can't be quantized so, doesn't read back, or its engine can't be
            built.
    """
    folder = folder.resolve()  # its paths are for other programs, here and in a container
    folder.mkdir(parents=True, exist_ok=True)
    forms = recipe.target.forms
    missing = tuple(form for form in forms if not (folder / form).is_dir())
    if missing:
        _quantize(recipe, missing, folder, modelopt)
    with Checkpoint(recipe.checkpoint) as checkpoint:
        for form in forms:
            say(_described(form, folder / form, checkpoint))
    if "trtllm" in forms:
        _build_engine(recipe, folder, say)


def _quantize(
    recipe: TensorRTLLMRecipe, forms: tuple[Form, ...], folder: Path, modelopt: Path
) -> None:
    if not modelopt.exists():
        raise BuildError(
            f"there is no {modelopt}: `make modelopt` installs NVIDIA ModelOpt, which quantizes "
            "for TensorRT-LLM"
        )
    target = recipe.target.model_copy(update={"forms": forms})
    command = [str(modelopt.absolute()), "-m", "build.tensorrt_llm"]
    command += [str(recipe.checkpoint.resolve()), str(folder)]
    command += ["--target", target.model_dump_json()]
    command += ["--calibration", _calibration(recipe).model_dump_json()]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise BuildError(done.stdout.strip() or f"ModelOpt ended with code {done.returncode}")


def _calibration(recipe: TensorRTLLMRecipe) -> TensorRTLLMCalibration:
    text = recipe.calibration.text
    return recipe.calibration.model_copy(update={"text": text and text.resolve()})


def _build_engine(recipe: TensorRTLLMRecipe, folder: Path, say: Callable[[str], None]) -> None:
    engine, partial = folder / ENGINE, folder / f".{ENGINE}.partial"
    if not engine.is_dir():
        shutil.rmtree(partial, ignore_errors=True)
        command = trtllm_build(recipe.limits, recipe.target.build, folder / "trtllm", partial)
        if shutil.which(PROGRAM) is None:
            raise UnfinishedError(
                f"TensorRT-LLM is not installed here. The checkpoint is complete; this builds its "
                f"engine on a GPU machine,\nin {CONTAINER} (TensorRT-LLM {RELEASE}):\n\n"
                f"{in_container(then_rename(command, partial, engine), folder)}\n\n"
                "then the same build publishes it."
            )
        say(shlex.join(command))
        code = subprocess.run(command, check=False).returncode
        if code:
            raise BuildError(f"{PROGRAM} ended with code {code}")
        partial.rename(engine)
    for rank in range(recipe.target.world_size):
        if not (engine / f"rank{rank}.engine").is_file():
            raise BuildError(f"{engine} has no rank{rank}.engine: delete it and build again")
    # What the ensemble's text models read lies beside the engine.
    for name in TEXT_FILES:
        if (folder / "trtllm" / name).exists():
            shutil.copyfile(folder / "trtllm" / name, engine / name)


def _described(form: Form, folder: Path, checkpoint: Checkpoint) -> str:
    """A form's tensors, read back: those of the first layer, and the worst of all."""
    found = check(folder, form, checkpoint)
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    algorithm = quantization_format(folder, form) or "not quantized"
    lines = [
        f"{folder}: {algorithm}, {', '.join(files)}",
        *map(_line, _first_layer(found)),
        f"  {len(found)} matrices read back, the worst off by {max(e.error for e in found):.4f}",
    ]
    return "\n".join(lines)


def _line(each: ReadBack) -> str:
    return (
        f"  rank {each.rank}  {each.name:<52} {each.dtype:<8} {list(each.shape)!s:<14} "
        f"off by {each.error:.4f}"
    )


def _first_layer(found: Sequence[ReadBack]) -> list[ReadBack]:
    return [each for each in found if ".layers.0." in each.name]
