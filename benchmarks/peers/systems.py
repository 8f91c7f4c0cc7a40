"""What is compared: each system's worker program, environment and options."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["engine", "server", "peer"]
"""Trireme's engine in process, Trireme's whole server, or somebody else's engine in process."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment, installed from the lock of the same name.

    Attributes:
        name: Of the file and of the folder.
        variables: For pip, where a package is compiled.
        has_torch: Whether torch is in it, which has two wheels to choose from.
    """

    name: str
    variables: dict[str, str] = field(default_factory=dict)
    has_torch: bool = True


_OPENVINO = Environment("openvino")
_LLAMA_CPP = Environment(
    "llama-cpp",
    # The library alone, for the processor that compiles it; a few minutes on two cores.
    variables={
        "CMAKE_ARGS": "-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF -DMTMD_BUILD=OFF -DLLAMA_BUILD_TESTS=OFF "
        "-DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_SERVER=OFF",
    },
    has_torch=False,
)
_GENAI = Environment("onnxruntime-genai")
_VLLM = Environment("vllm")
_TRANSFORMERS = Environment("transformers")


@dataclass(frozen=True)
class SystemSpec:
    """One column of the comparison.

    Attributes:
        name: As on the command line and in the report.
        label: As in the picture.
        kind: Whose it is, and how much of it runs.
        precision: Of the weights, by which systems are compared where quality was not measured.
        worker: Module of ``benchmarks.peers.workers``.
        environment: Where it is installed; None is Trireme's own.
        options: What the worker is told.
    """

    name: str
    label: str
    kind: Kind
    precision: str
    worker: str
    environment: Environment | None = None
    options: dict[str, str] = field(default_factory=dict)


def _trireme(
    kind: str, precision: str, options: dict[str, str], words: str = ""
) -> tuple[SystemSpec, SystemSpec]:
    name, label = f"trireme-{kind}", f"Trireme {words or kind}"
    return (
        SystemSpec(name, label, "engine", precision, "trireme", options=options),
        SystemSpec(
            f"{name}-server",
            f"{label}, whole server",
            "server",
            precision,
            "trireme_server",
            options=options,
        ),
    )


def _peer(
    name: str, label: str, precision: str, environment: Environment, options: dict[str, str]
) -> SystemSpec:
    worker = environment.name.replace("-", "_")
    return SystemSpec(name, label, "peer", precision, worker, environment, options)


SYSTEMS = (
    *_trireme("int4", "int4", {"precision": "int4"}),
    *_trireme(
        "int4-head8",
        "int4",
        {"precision": "int4", "head": "int8_block", "int4_method": "k_quant"},
        "int4, 8-bit head",
    ),
    *_trireme("int8", "int8", {"precision": "int8"}),
    *_trireme(
        "int8-block",
        "int8",
        {"precision": "int8_block", "smoothing": "yes"},
        "int8 blocks",
    ),
    _peer("openvino-int4", "OpenVINO GenAI int4", "int4", _OPENVINO, {"precision": "int4"}),
    _peer("openvino-int8", "OpenVINO GenAI int8", "int8", _OPENVINO, {"precision": "int8"}),
    _peer("llama-cpp-q4_0", "llama.cpp Q4_0", "int4", _LLAMA_CPP, {"type": "q4_0"}),
    _peer("llama-cpp-q4_1", "llama.cpp Q4_1", "int4", _LLAMA_CPP, {"type": "q4_1"}),
    _peer("llama-cpp-q4_k_m", "llama.cpp Q4_K_M", "int4", _LLAMA_CPP, {"type": "q4_k_m"}),
    _peer("llama-cpp-q8_0", "llama.cpp Q8_0", "int8", _LLAMA_CPP, {"type": "q8_0"}),
    _peer(
        "onnxruntime-genai-int4",
        "ORT GenAI int4",
        "int4",
        _GENAI,
        {"precision": "int4"},
    ),
    _peer(
        "onnxruntime-genai-int8",
        "ORT GenAI int8",
        "int8",
        _GENAI,
        {"precision": "int8"},
    ),
    _peer("vllm-bf16", "vLLM bf16", "bf16", _VLLM, {"dtype": "bfloat16"}),
    _peer("transformers-bf16", "Transformers bf16", "bf16", _TRANSFORMERS, {"dtype": "bfloat16"}),
)

BY_NAME = {system.name: system for system in SYSTEMS}
