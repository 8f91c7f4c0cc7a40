"""The tensors that TensorRT-LLM 1.2's own models declare, as its ``config.pbtxt`` files have them.

The files in ``nvidia/`` were written by a program from NVIDIA's: names, types, dimensions, what may
be left out, the ensemble's maps and the parameters' names. Each says which files of which commits;
``adds`` are the tensors that only the later one has. Where a file has a placeholder, such as the
type of the logits, ``placeholders`` says what its documentation fills in.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contract.tensors import Tensor

_FOLDER = Path(__file__).with_name("nvidia")


@dataclass(frozen=True)
class Declared:
    """What one of NVIDIA's models declares.

    Attributes:
        inputs: Its inputs by their names.
        outputs: Its outputs by their names.
        steps: Of an ensemble: the inputs of each step, and what feeds them.
        parameters: The names of its parameters.
        source: Where it is written.
    """

    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    steps: dict[str, dict[str, str]]
    parameters: frozenset[str]
    source: list[dict[str, Any]]


def read(model: str) -> Declared:
    """What one of NVIDIA's models declares, from its file."""
    content = json.loads((_FOLDER / f"{model}.json").read_text(encoding="utf-8"))
    return Declared(
        inputs={each["name"]: _tensor(each) for each in content["input"]},
        outputs={each["name"]: _tensor(each) for each in content["output"]},
        steps={each["model_name"]: each["input_map"] for each in content.get("steps", ())},
        parameters=frozenset(content["parameters"]),
        source=content["source"],
    )


def _tensor(entry: dict[str, Any]) -> Tensor:
    return Tensor(
        entry["name"],
        entry["data_type"],
        tuple(entry["dims"]),
        optional=entry.get("optional", False),
        scalar=entry.get("reshape") == [],
        ragged=entry.get("allow_ragged_batch", False),
    )


ENSEMBLE = read("ensemble")
ENGINE = read("tensorrt_llm")
PREPROCESSING = read("preprocessing")
POSTPROCESSING = read("postprocessing")
BLS = read("tensorrt_llm_bls")
