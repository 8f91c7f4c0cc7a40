"""ONNX Runtime GenAI: its builder's graph and its generator, a static batch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai as genai

from benchmarks.peers.worker import Options, available_cores, main

_BUILDER_OPTIONS = ("block_size=128", "accuracy_level=4", "prune_lm_head=true")
"""The fastest on a CPU: products in int8, and logits of the last token of a prompt alone."""


class OnnxRuntimeGenAI:
    """A model and its ``Generator``. It keeps no prefixes from one batch for the next."""

    def __init__(self, model: Path, precision: str) -> None:
        config = genai.Config(str(model))
        session_options = {"intra_op_num_threads": available_cores()}
        overlay = {"model": {"decoder": {"session_options": session_options}}}
        config.overlay(json.dumps(overlay))
        self._model = genai.Model(config)
        self.settings: dict[str, Any] = {
            "weights": precision,
            "builder": list(_BUILDER_OPTIONS),
            "threads": available_cores(),
        }

    def generate(
        self, prompts: list[list[int]], output_tokens: int, end_ids: Sequence[int] = ()
    ) -> list[int]:
        """Continue all prompts, which are of one length, by ``output_tokens``."""
        if end_ids:
            raise ValueError("answers that may end are not asked of a static batch")
        length = len(prompts[0]) + output_tokens
        params = genai.GeneratorParams(self._model)
        params.set_search_options(
            batch_size=len(prompts), max_length=length, min_length=length, do_sample=False
        )
        generator = genai.Generator(self._model, params)
        generator.append_tokens(np.array(prompts, dtype=np.int32))
        while not generator.is_done():
            generator.generate_next_token()
        return [
            len(generator.get_sequence(row)) - len(prompt) for row, prompt in enumerate(prompts)
        ]


def build(checkpoint: Path, model: Path, options: Options) -> None:
    """Run the model builder."""
    precision = options["precision"]
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
    command += ["-i", str(checkpoint), "-o", str(model), "-p", precision, "-e", "cpu"]
    subprocess.run([*command, "--extra_options", *_BUILDER_OPTIONS], check=True)


def load(model: Path, options: Options) -> OnnxRuntimeGenAI:
    """Load the graph."""
    return OnnxRuntimeGenAI(model, options["precision"])


if __name__ == "__main__":
    main(build, load, ("onnxruntime-genai", "onnxruntime"))
