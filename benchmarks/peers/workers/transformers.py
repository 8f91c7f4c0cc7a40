"""Hugging Face Transformers' ``generate``: the floor, a static batch without prefix cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from benchmarks.peers.worker import Options, available_cores, main


class Transformers:
    """A model and its ``generate``."""

    def __init__(self, model: Path, dtype: str) -> None:
        torch.set_num_threads(available_cores())
        self._model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype))
        self._model.eval()
        self.settings: dict[str, Any] = {
            "dtype": dtype,
            "attention": self._model.config._attn_implementation,
            "threads": torch.get_num_threads(),
        }

    def generate(self, prompts: list[list[int]], output_tokens: int) -> list[int]:
        """Continue all prompts, which are of one length, by ``output_tokens``."""
        ids = torch.tensor(prompts)
        with torch.inference_mode():
            answers = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=output_tokens,
                min_new_tokens=output_tokens,
                do_sample=False,
                pad_token_id=0,
            )
        return [answers.shape[1] - ids.shape[1]] * len(prompts)


def build(checkpoint: Path, model: Path, options: Options) -> None:
    """Nothing to convert: the checkpoint is loaded as it is."""
    for file in checkpoint.iterdir():
        (model / file.name).symlink_to(file)


def load(model: Path, options: Options) -> Transformers:
    """Load the checkpoint."""
    return Transformers(model, options["dtype"])


if __name__ == "__main__":
    main(build, load, ("torch", "transformers"))
