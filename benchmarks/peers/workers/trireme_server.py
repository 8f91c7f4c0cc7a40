"""The whole of Trireme: Triton with the ensemble, asked over gRPC streams by this process.

Text goes in and text comes out, through tokenization, engine, detokenization and the safety filter,
with the settings that ``make serve`` has but for the size of the KV cache.
"""

from __future__ import annotations

import asyncio
import atexit
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.bench_tokenizer import text_of
from benchmarks.peers.worker import Options, main
from benchmarks.peers.workers.trireme import build_options
from benchmarks.workloads import KV_CACHE_BYTES
from build.engine_folder import build_engine
from clients import AsyncClient, GenerationOptions
from contract.names import TENSORRT_LLM
from ensembles.repository import assemble
from ensembles.repository_settings import UNSIGNED, RepositorySettings
from ops.triton_process import TritonServer


class TriremeServer:
    """A Triton server and a client of it."""

    def __init__(self, repository: Path, precision: str) -> None:
        self._server = TritonServer(repository, log=repository / "triton.log")
        self._server.start()
        atexit.register(self._server.stop)
        self._client = AsyncClient(self._server.grpc_address)
        self._loop = asyncio.new_event_loop()
        self.settings: dict[str, Any] = {
            "precision": precision,
            "client": "asyncio, one gRPC stream for each request, in a process of its own",
        }

    def generate(
        self, prompts: list[list[int]], output_tokens: int, end_ids: Sequence[int] = ()
    ) -> list[int]:
        """Continue all prompts by ``output_tokens``."""
        if end_ids:
            raise ValueError("answers that may end are not asked of the whole server")
        options = GenerationOptions(
            max_tokens=output_tokens, end_id=-1, return_num_output_tokens=True
        )
        return self._loop.run_until_complete(self._generate_all(prompts, options))

    async def _generate_all(
        self, prompts: list[list[int]], options: GenerationOptions
    ) -> list[int]:
        return await asyncio.gather(*(self._tokens(prompt, options) for prompt in prompts))

    async def _tokens(self, prompt: list[int], options: GenerationOptions) -> int:
        """Tokens of one answer, as its pieces say."""
        pieces = self._client.stream(text_of(prompt), options)
        return sum([piece.num_output_tokens or 0 async for piece in pieces])


def build(checkpoint: Path, model: Path, options: Options) -> None:
    """Assemble a model repository and build the engine into it."""
    settings = f"onnx.kv_cache_bytes={KV_CACHE_BYTES}"
    assemble(model, RepositorySettings.from_assignments([UNSIGNED, settings]))
    engine = model / TENSORRT_LLM / "1"
    build_engine(checkpoint, engine, **build_options(options))


def load(model: Path, options: Options) -> TriremeServer:
    """Start the server."""
    return TriremeServer(model, options["precision"])


if __name__ == "__main__":
    main(build, load, ("nvidia-pytriton", "tritonclient", "onnxruntime", "numpy"))
