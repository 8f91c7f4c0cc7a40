"""How long a person waits for the first token while batch work saturates the machine.

    python -m benchmarks.priorities --repository model_repository
    python -m benchmarks.priorities --half-billion

First interactive requests alone, one after the other; then the same while `--batch` requests of
class batch run without a pause. Each interactive prompt is new, so that no prefix cache answers it.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Sequence

import httpx

from benchmarks import served

MAX_RATIO = 2.0


async def ask(client: httpx.AsyncClient, prompt: str, tier: str, max_tokens: int) -> float:
    """Complete a prompt; return the time to the first text, in seconds.

    Only who waits for it, a person, has it streamed: a job takes its answer as a whole.
    """
    streams = tier == "priority"
    body = {
        "model": "demo",
        "prompt": prompt,
        "max_tokens": max_tokens,
        "ignore_eos": True,
        "stream": streams,
        "service_tier": tier,
    }
    started_s, first_s = time.perf_counter(), 0.0
    async with client.stream("POST", "/v1/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if not first_s and '"text":' in line and '"text":""' not in line:
                first_s = time.perf_counter() - started_s
    return first_s


async def interactive(
    client: httpx.AsyncClient, where: served.Served, count: int, words: int
) -> list[float]:
    """Times to the first token of some requests, one after the other."""
    times = []
    for _ in range(count):
        times.append(await ask(client, where.prompt(words), "priority", 8))
        await asyncio.sleep(0.05)
    return times


async def measure(where: served.Served, options: argparse.Namespace) -> bool:
    """Measure and print; whether the bound is kept."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(
        base_url=f"http://{where.gateway}", limits=limits, timeout=300, trust_env=False
    ) as client:
        await interactive(client, where, 3, options.words)
        alone = await interactive(client, where, options.requests, options.words)

        async def saturate() -> None:
            while True:
                await ask(client, where.prompt(16), "flex", options.max_tokens)

        batch = [asyncio.create_task(saturate()) for _ in range(options.batch)]
        try:
            await asyncio.sleep(3)
            loaded = await interactive(client, where, options.requests, options.words)
        finally:
            for task in batch:
                task.cancel()
            ends = await asyncio.gather(*batch, return_exceptions=True)
    failed = [end for end in ends if isinstance(end, Exception)]
    ratio = statistics.median(loaded) / statistics.median(alone)
    print(
        f"time to first token, interactive, a prompt of {options.words} words, "
        f"median (worst) of {options.requests}:\n"
        f"  alone                           {_ms(alone)}\n"
        f"  beside {options.batch:3d} requests of class batch {_ms(loaded)}\n"
        f"  ratio {ratio:.2f} (bound {MAX_RATIO:g}); batch requests that failed: {len(failed)}"
    )
    return ratio <= MAX_RATIO and not failed


def _ms(times: Sequence[float]) -> str:
    return f"{statistics.median(times) * 1e3:7.1f} ms ({max(times) * 1e3:.1f})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; returns the exit code, 1 where the bound is broken."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.priorities", description=__doc__)
    served.add_arguments(parser)
    parser.add_argument("--batch", type=int, default=48, help="requests of class batch at a time")
    parser.add_argument("--max-tokens", type=int, default=512, help="of an answer to them")
    parser.add_argument("--requests", type=int, default=20, help="interactive ones, each time")
    parser.add_argument("--words", type=int, default=400, help="length of their prompts")
    options = parser.parse_args(arguments)
    with served.serve(options) as where:
        return 0 if asyncio.run(measure(where, options)) else 1


if __name__ == "__main__":
    sys.exit(main())
