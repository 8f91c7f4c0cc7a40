"""The command that builds a TensorRT-LLM engine, here or in NVIDIA's container."""

from __future__ import annotations

import shlex
from pathlib import Path

from build.tensorrt_llm.settings import CONTAINER, EngineBuild

PROGRAM = "trtllm-build"


def trtllm_build(build: EngineBuild, checkpoint: Path, engine: Path) -> list[str]:
    """``trtllm-build`` with every option that is set.

    Args:
        build: Its options.
        checkpoint: A TensorRT-LLM checkpoint: ``config.json`` and ``rank*.safetensors``.
        engine: The engine's folder.
    """
    command = [PROGRAM, "--checkpoint_dir", str(checkpoint), "--output_dir", str(engine)]
    for name, value in build:
        if value is None or value is False or value == ():
            continue
        command.append(f"--{name}")
        if isinstance(value, tuple):
            command += value
        elif value is not True:
            command.append(str(value))
    return command


def in_container(command: list[str], folder: Path) -> str:
    """A command as a line for a shell that runs it in NVIDIA's container, on all GPUs.

    Args:
        command: The command; its paths lie in ``folder``, which has the same path in there.
        folder: What the container sees of this machine.
    """
    docker = ["docker", "run", "--rm", "--gpus", "all", "--ipc", "host"]
    docker += ["--ulimit", "memlock=-1", "--ulimit", "stack=67108864"]
    docker += ["--volume", f"{folder}:{folder}", "--workdir", str(folder), CONTAINER]
    return shlex.join([*docker, *command])
