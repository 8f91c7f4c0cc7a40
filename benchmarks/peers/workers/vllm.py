"""vLLM on its CPU backend."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.worker import KV_CACHE_GIB, Options, answered, available_cores, main

_VARIABLES = {
    "VLLM_CPU_KVCACHE_SPACE": str(KV_CACHE_GIB),
    "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, sorted(os.sched_getaffinity(0)))),
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in process, like the others
    "VLLM_NO_USAGE_STATS": "1",
}
"""Read by vLLM when it is imported."""


class Vllm:
    """The offline engine, which is the server's without HTTP."""

    def __init__(self, model: Path, dtype: str) -> None:
        os.environ.update(_VARIABLES)
        from vllm import LLM, SamplingParams

        arguments: dict[str, Any] = {
            "dtype": dtype,
            "max_model_len": 2048,
            "max_num_seqs": 32,
            "max_num_batched_tokens": 2048,
            "enable_prefix_caching": True,
            "enable_chunked_prefill": True,
            "skip_tokenizer_init": True,
        }
        self._sampling = SamplingParams
        self._llm = LLM(model=str(model), **arguments)
        self.settings = {**arguments, **_VARIABLES, "threads": available_cores()}

    def generate(
        self, prompts: list[list[int]], output_tokens: int, end_ids: Sequence[int] = ()
    ) -> list[int]:
        """Continue all prompts by ``output_tokens``, or to an end."""
        sampling = self._sampling(
            temperature=0.0,
            max_tokens=output_tokens,
            ignore_eos=not end_ids,
            stop_token_ids=list(end_ids),
            detokenize=False,
        )
        results = self._llm.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts], sampling, use_tqdm=False
        )
        return [answered(result.outputs[0].token_ids, end_ids) for result in results]


def build(checkpoint: Path, model: Path, options: Options) -> None:
    """Nothing to convert: the checkpoint is loaded as it is."""
    for file in checkpoint.iterdir():
        (model / file.name).symlink_to(file)


def load(model: Path, options: Options) -> Vllm:
    """Load the checkpoint."""
    return Vllm(model, options["dtype"])


if __name__ == "__main__":
    main(build, load, ("vllm-cpu", "torch", "transformers"))
