"""How long a person waits for the first token while batch work saturates the machine.

    python -m benchmarks.priorities --repository model_repository

First interactive requests alone, one after the other; then the same while `--batch` streams of
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


async def first_token_s(
    client: httpx.AsyncClient, prompt: str, tier: str, max_tokens: int
) -> float:
    """Ask as a stream and read it to its end; return the time to its first text, in seconds."""
    body = {
        "model": "demo",
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "ignore_eos": True,
        "stream": True,
        "service_tier": tier,
    }
    started_s, first_s = time.perf_counter(), 0.0
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if not first_s and '"content":' in line and '"content":""' not in line:
                first_s = time.perf_counter() - started_s
    return first_s


async def interactive(client: httpx.AsyncClient, count: int, words: int) -> list[float]:
    """Times to the first token of some requests, one after the other."""
    times = []
    for _ in range(count):
        prompt = f"{time.time_ns()} " + "Tell me of ships. " * (words // 4)
        times.append(await first_token_s(client, prompt, "priority", 8))
        await asyncio.sleep(0.05)
    return times


async def measure(where: served.Served, options: argparse.Namespace) -> bool:
    """Measure and print; whether the bound is kept."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(
        base_url=f"http://{where.gateway}", limits=limits, timeout=300, trust_env=False
    ) as client:
        await interactive(client, 3, options.words)
        alone = await interactive(client, options.requests, options.words)

        async def saturate(number: int) -> None:
            while True:
                await first_token_s(client, f"Count from {number} to 900.", "flex", 512)

        batch = [asyncio.create_task(saturate(number)) for number in range(options.batch)]
        try:
            await asyncio.sleep(3)
            loaded = await interactive(client, options.requests, options.words)
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
        f"  beside {options.batch:3d} streams of class batch {_ms(loaded)}\n"
        f"  ratio {ratio:.2f} (bound {MAX_RATIO:g}); batch requests that failed: {len(failed)}"
    )
    return ratio <= MAX_RATIO and not failed


def _ms(times: Sequence[float]) -> str:
    return f"{statistics.median(times) * 1e3:7.1f} ms ({max(times) * 1e3:.1f})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; returns the exit code, 1 where the bound is broken."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.priorities", description=__doc__)
    served.add_arguments(parser)
    parser.add_argument("--batch", type=int, default=48, help="streams of class batch")
    parser.add_argument("--requests", type=int, default=20, help="interactive ones, each time")
    parser.add_argument("--words", type=int, default=400, help="length of their prompts")
    options = parser.parse_args(arguments)
    with served.serve(options) as where:
        return 0 if asyncio.run(measure(where, options)) else 1


if __name__ == "__main__":
    sys.exit(main())
