"""What the gateway costs: the same load through it and straight to Triton's gRPC, in turns.

    python -m benchmarks.gateway_cost --repository model_repository
    python -m benchmarks.gateway_cost --half-billion --per-stream 1

Requests of both kinds alternate (time to first token, 1 stream) and so do rounds of them
(throughput, 32 streams), so that whatever else the machine does falls on both. Each side has the
cheapest client of its protocol that can be written in this process: Trireme's own for gRPC, a bare
reader of server-sent events for the gateway. Both complete the same prompts, greedily, to the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from benchmarks import served
from clients.grpc_transport import AsyncGrpcTransport
from clients.options import GenerationOptions
from clients.request import Request
from contract.models import EnsembleOutputs
from contract.names import CHAT_TEMPLATE, ENSEMBLE

MAX_TTFT_MS = 2.0
MIN_THROUGHPUT = 0.95


@dataclass(frozen=True)
class Answer:
    """One request as its client saw it.

    Attributes:
        ttft_s: Time to the first text.
        tokens: Tokens of the answer.
    """

    ttft_s: float
    tokens: int


@dataclass(frozen=True)
class Round:
    """Some streams at once, to their ends.

    Attributes:
        tokens_per_s: Of all of them.
        client_us: Processor time of this process, the clients', for a token in microseconds.
    """

    tokens_per_s: float
    client_us: float


_RAW = {CHAT_TEMPLATE: "off"}
"""The prompt is taken as it is, as a completion's is."""

Ask = Callable[[str, int], Awaitable[Answer]]


def straight(address: str) -> Ask:
    """Asks Triton's ensemble over gRPC."""
    transport = AsyncGrpcTransport(address)

    async def ask(prompt: str, max_tokens: int) -> Answer:
        options = GenerationOptions(
            max_tokens=max_tokens,
            end_id=-1,
            return_num_output_tokens=True,
            return_num_input_tokens=True,
            temperature=0.0,
        )
        started_s, first_s, tokens = time.perf_counter(), 0.0, 0
        async for outputs in transport.responses(
            Request(ENSEMBLE, prompt, options, True, "", 300.0, parameters=_RAW)
        ):
            if not first_s and outputs[EnsembleOutputs.TEXT_OUTPUT.name][0]:
                first_s = time.perf_counter()
            tokens += outputs[EnsembleOutputs.NUM_OUTPUT_TOKENS.name][0]
        return Answer(first_s - started_s, tokens)

    return ask


def through(address: str) -> Ask:
    """Asks the gateway, over connections that are kept as an HTTP client keeps them."""
    host, port = address.split(":")
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(prompt: str, max_tokens: int) -> Answer:
        while idle and idle[-1][0].at_eof():  # the server has closed it meanwhile
            idle.pop()[1].close()
        reader, writer = idle.pop() if idle else await asyncio.open_connection(host, int(port))
        body = json.dumps(
            {
                "model": "demo",
                "prompt": prompt,
                "max_tokens": max_tokens,
                "ignore_eos": True,
                "temperature": 0,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        ).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nhost: {address}\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        started_s, first_s, last = time.perf_counter(), 0.0, b""
        writer.write(head.encode() + body)
        answer_head = await reader.readuntil(b"\r\n\r\n")
        if not answer_head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(answer_head.decode() + (await reader.read(4096)).decode())
        while not last.endswith(b"0\r\n\r\n"):
            chunk = await reader.read(1 << 16)
            if not first_s and b'"text":"' in chunk.replace(b'"text":""', b""):
                first_s = time.perf_counter()
            last = (last + chunk)[-2048:]
        if b"data: [DONE]" not in last:
            raise RuntimeError(last.decode())
        usage = last[last.rindex(b'"completion_tokens":') :]
        idle.append((reader, writer))
        return Answer(first_s - started_s, int(usage[20 : usage.index(b",")]))

    return ask


async def first_text(asks: Sequence[Ask], prompts: Sequence[str], count: int) -> list[float]:
    """Median time to the first token of each, seconds, one request at a time, in turns."""
    times: list[list[float]] = [[] for _ in asks]
    for turn in range(count + 3):
        for ask, collected in zip(asks, times, strict=True):
            answer = await ask(prompts[turn % len(prompts)], 8)
            if turn >= 3:  # the first ones open connections and fill caches
                collected.append(answer.ttft_s)
    return [statistics.median(collected) for collected in times]


async def throughput(
    asks: Sequence[Ask], prompts: Sequence[str], options: argparse.Namespace
) -> list[list[Round]]:
    """What each does in each round of streams at once."""
    figures: list[list[Round]] = [[] for _ in asks]

    async def stream(ask: Ask, number: int) -> int:
        tokens = 0
        for turn in range(options.per_stream):
            prompt = prompts[(number + turn) % len(prompts)]
            tokens += (await ask(prompt, options.max_tokens)).tokens
        return tokens

    for turn in range(options.rounds):
        sides = list(zip(asks, figures, strict=True))
        for ask, collected in sides if turn % 2 == 0 else reversed(sides):
            started_s, cpu_s = time.perf_counter(), time.process_time()
            tokens = sum(await asyncio.gather(*(stream(ask, i) for i in range(options.streams))))
            took_s, cpu_s = time.perf_counter() - started_s, time.process_time() - cpu_s
            collected.append(Round(tokens / took_s, cpu_s / tokens * 1e6))
    return figures


async def measure(where: served.Served, options: argparse.Namespace) -> bool:
    """Measure and print; whether the gateway keeps to its bounds."""
    asks = [straight(where.grpc), through(where.gateway)]
    prompts = [where.prompt(6) for _ in range(3)]
    direct_s, gateway_s = await first_text(asks, prompts, options.requests)
    more_ms = (gateway_s - direct_s) * 1e3
    print(
        f"time to first token, 1 stream, median of {options.requests}: "
        f"{direct_s * 1e3:.2f} ms straight, {gateway_s * 1e3:.2f} ms through the gateway: "
        f"{more_ms:+.2f} ms (bound {MAX_TTFT_MS:+g})"
    )
    direct, gateway = await throughput(asks, prompts, options)
    ratios = [g.tokens_per_s / d.tokens_per_s for d, g in zip(direct, gateway, strict=True)]
    ratio = statistics.median(ratios)
    print(
        f"tokens/s, {options.streams} streams, median of {options.rounds} rounds: "
        f"{_median(direct, 'tokens_per_s'):,.0f} straight, "
        f"{_median(gateway, 'tokens_per_s'):,.0f} through "
        f"the gateway: {ratio:.1%} (bound {MIN_THROUGHPUT:.0%}); "
        f"rounds {', '.join(f'{each:.1%}' for each in ratios)}"
    )
    print(
        f"the clients' own processor time, a token: {_median(direct, 'client_us'):.1f} us "
        f"straight, {_median(gateway, 'client_us'):.1f} us through the gateway"
    )
    return more_ms <= MAX_TTFT_MS and ratio >= MIN_THROUGHPUT


def _median(rounds: Sequence[Round], figure: str) -> float:
    return statistics.median(getattr(each, figure) for each in rounds)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; returns the exit code, 1 where a bound is broken."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway_cost", description=__doc__)
    served.add_arguments(parser)
    parser.add_argument("--requests", type=int, default=60, help="for the time to first token")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--per-stream", type=int, default=2, help="requests of a stream, a round")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args(arguments)
    with served.serve(options) as where:
        return 0 if asyncio.run(measure(where, options)) else 1


if __name__ == "__main__":
    sys.exit(main())
