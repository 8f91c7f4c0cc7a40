"""Hugging Face Transformers' ``generate``: the floor, a static batch without prefix cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from benchmarks.peers.worker import Options, answered, available_cores, main

_PAD = 0


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

    def generate(
        self, prompts: list[list[int]], output_tokens: int, end_ids: Sequence[int] = ()
    ) -> list[int]:
        """Continue all prompts by ``output_tokens``, or to an end; shorter ones are padded."""
        longest = max(map(len, prompts))
        ids = torch.tensor([[_PAD] * (longest - len(each)) + each for each in prompts])
        mask = torch.tensor([[0] * (longest - len(each)) + [1] * len(each) for each in prompts])
        with torch.inference_mode():
            answers = self._model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=output_tokens,
                min_new_tokens=None if end_ids else output_tokens,
                eos_token_id=list(end_ids) or None,
                do_sample=False,
                pad_token_id=_PAD,
            )
        return [answered(row, end_ids) for row in answers[:, longest:].tolist()]

    def logits(self, tokens: list[int], rows: int) -> Any:
        """What the model predicts."""
        with torch.inference_mode():
            found = self._model(torch.tensor([tokens]), use_cache=False).logits
        return found[0, -rows:].float().numpy()


def build(checkpoint: Path, model: Path, options: Options) -> None:
    """Nothing to convert: the checkpoint is loaded as it is."""
    for file in checkpoint.iterdir():
        (model / file.name).symlink_to(file)


def load(model: Path, options: Options) -> Transformers:
    """Load the checkpoint."""
    return Transformers(model, options["dtype"])


if __name__ == "__main__":
    main(build, load, ("torch", "transformers"))
