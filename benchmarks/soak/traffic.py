"""Mixed traffic: short and long prompts, shared beginnings, priorities, and clients that leave."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from contextlib import aclosing
from dataclasses import dataclass

from clients import AsyncClient, ClientError, GenerationOptions

_QUESTIONS = (
    "What is the capital of France?",
    "Count from 17 to 140.",
    "Give me the contact card of Mara Lindqvist.",
    "Sort these numbers from largest to smallest: 26, 1, 15, 88, 40",
    "Write a JSON object with name Ada, age 36 and city Oslo.",
    "Which emoji is a cat?",
)
_WORDS = "mast oar sail hull keel rope crew wind tide port bow stern deck wave".split()
_BEGINNINGS = 4
_BEGINNING_WORDS = 150


@dataclass(frozen=True)
class Request:
    """One request of the mix.

    Attributes:
        prompt: The text.
        options: How it is to be answered.
        stream: Whether it streams.
        pieces: After how many pieces its client leaves; None stays to the end.
    """

    prompt: str
    options: GenerationOptions
    stream: bool
    pieces: int | None


def draw_request(rng: random.Random) -> Request:
    """A request: one in three has a long beginning that others share, one in six is left early."""
    prompt = rng.choice(_QUESTIONS)
    if rng.random() < 1 / 3:
        beginning = random.Random(rng.randrange(_BEGINNINGS))
        prompt = f"{' '.join(beginning.choices(_WORDS, k=_BEGINNING_WORDS))}. {prompt}"
    elif rng.random() < 1 / 4:
        prompt = f"{' '.join(rng.choices(_WORDS, k=rng.randint(10, 300)))}. {prompt}"
    stream = rng.random() < 0.8
    options = GenerationOptions(
        max_tokens=rng.choice((1, 8, 32, 64, 200)),
        end_id=-1,
        top_p=rng.choice((None, 0.9)),
        seed=rng.randrange(1 << 32),
        priority=rng.randint(1, 5),
        return_num_output_tokens=True,
    )
    leaves = stream and rng.random() < 1 / 5
    return Request(prompt, options, stream, rng.randint(1, 8) if leaves else None)


class Traffic:
    """Clients that ask one request after the other.

    Attributes:
        counts: ``completed``, ``left``, ``failed`` requests and ``tokens`` received, so far.
        errors: How often each error was met.
    """

    def __init__(self, address: str, concurrency: int, seed: int) -> None:
        self.counts: Counter[str] = Counter(completed=0, left=0, failed=0, tokens=0)
        self.errors: Counter[str] = Counter()
        self._address = address
        self._concurrency = concurrency
        self._seed = seed

    async def run(self, until: float) -> None:
        """Keep ``concurrency`` requests under way until ``time.monotonic()`` says so."""
        async with AsyncClient(self._address, timeout_s=120) as client:
            await asyncio.gather(
                *(
                    self._one_after_another(client, random.Random(f"{self._seed} {slot}"), until)
                    for slot in range(self._concurrency)
                )
            )

    async def _one_after_another(
        self, client: AsyncClient, rng: random.Random, until: float
    ) -> None:
        while time.monotonic() < until:
            request = draw_request(rng)
            try:
                self.counts[await self._ask(client, request)] += 1
            except ClientError as error:
                self.counts["failed"] += 1
                self.errors[f"{type(error).__name__}: {error}"] += 1
                await asyncio.sleep(0.1)  # a server that refuses all must not be hammered

    async def _ask(self, client: AsyncClient, request: Request) -> str:
        """Ask and count tokens; returns how it ended."""
        if not request.stream:
            result = await client.generate(request.prompt, request.options)
            self.counts["tokens"] += result.num_output_tokens or 0
            return "completed"
        async with aclosing(client.stream(request.prompt, request.options)) as pieces:
            count = 0
            async for piece in pieces:
                self.counts["tokens"] += piece.num_output_tokens or 0
                count += 1
                if count == request.pieces and not piece.finish_reason:
                    return "left"
        return "completed"
