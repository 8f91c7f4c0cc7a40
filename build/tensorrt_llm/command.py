"""The command that builds a TensorRT-LLM engine, here or in NVIDIA's container."""

from __future__ import annotations

import shlex
from pathlib import Path

from build.recipe import Limits
from build.tensorrt_llm.trtllm_settings import CONTAINER, EngineBuild

PROGRAM = "trtllm-build"


def trtllm_build(limits: Limits, build: EngineBuild, checkpoint: Path, engine: Path) -> list[str]:
    """``trtllm-build`` with every option that is set.

    Args:
        limits: The recipe's.
        build: Its further options.
        checkpoint: A TensorRT-LLM checkpoint: ``config.json`` and ``rank*.safetensors``.
        engine: The engine's folder.
    """
    command = [PROGRAM, "--checkpoint_dir", str(checkpoint), "--output_dir", str(engine)]
    limited = {
        "max_batch_size": limits.max_num_sequences,
        "max_seq_len": limits.context_length,
        "max_num_tokens": limits.max_num_tokens,
    }
    for name, value in (limited | dict(build)).items():
        if value is None or value is False or value == ():
            continue
        command.append(f"--{name}")
        if isinstance(value, tuple):
            command += value
        elif value is not True:
            command.append(str(value))
    return command


def then_rename(command: list[str], partial: Path, finished: Path) -> list[str]:
    """A command that fills one folder and gives it its name only when it is complete."""
    move = ["mv", str(partial), str(finished)]
    return ["bash", "-c", f"{shlex.join(command)} && {shlex.join(move)}"]


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
