"""The worker's side of a comparison: one process that holds one system, and a line protocol.

Standard library only, because every worker runs in the environment of the peer it holds. A worker
program names two functions and hands them to ``main``:

- ``build(checkpoint, output, options)`` converts the checkpoint into what the system loads;
- ``load(model, options)`` returns a ``System``.

``serve`` then speaks JSON, one object a line. The worker says ``{"ready": {...}}`` once loaded;
each request ``{"prompts": [[id, …], …], "output_tokens": n, "end_ids": [id, …]}`` is answered with
``{"seconds": s, "generated": [n, …]}`` or ``{"error": "…"}``; a request for what a system predicts,
``{"tokens": [id, …], "rows": n, "file": "…"}``, with ``{"seconds": s, "vocab_size": n}``, and the
logits as float32 in the file. End of input ends the worker.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import IO, Any, Protocol, cast

Options = dict[str, Any]
"""What tells the systems of one worker program from each other, such as the precision."""


class System(Protocol):
    """A loaded model.

    Attributes:
        settings: How it runs, for the report.
    """

    settings: dict[str, Any]

    def generate(
        self, prompts: list[list[int]], output_tokens: int, end_ids: Sequence[int] = ()
    ) -> list[int]:
        """Continue all prompts greedily by ``output_tokens``, or to the first of ``end_ids``.

        Returns:
            How many tokens each really got, counted on what the system returned, without one that
            ended it.
        """


class Array(Protocol):
    """What a worker needs of numpy's."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def tofile(self, file: str) -> None: ...


class PredictingSystem(System, Protocol):
    """One that also says what it predicts."""

    def logits(self, tokens: list[int], rows: int) -> Array:
        """The logits after each of the last ``rows`` tokens, float32 ``[rows, vocab]``."""


def main(
    build: Callable[[Path, Path, Options], None],
    load: Callable[[Path, Options], System],
    packages: tuple[str, ...],
) -> None:
    """Run the command line: ``build`` or ``serve``.

    Args:
        build: Converts the checkpoint.
        load: Loads what ``build`` made.
        packages: Distributions whose versions the report names.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("build", "serve"):
        command = commands.add_parser(name)
        command.add_argument("--options", type=json.loads, default={})
        command.add_argument("--model", type=Path, required=True)
        if name == "build":
            command.add_argument("--checkpoint", type=Path, required=True)
    given = parser.parse_args()
    if given.command == "build":
        build(given.checkpoint, given.model, given.options)
        return
    replies = _own_stdout()
    start = time.perf_counter()
    system = load(given.model, given.options)
    ready = {
        "load_s": time.perf_counter() - start,
        "versions": {name: metadata.version(name) for name in packages},
        "settings": system.settings,
    }
    serve(system, ready, sys.stdin, replies)


def serve(system: System, ready: dict[str, Any], requests: IO[str], replies: IO[str]) -> None:
    """Answer requests until they end.

    Args:
        system: What generates.
        ready: What to say first.
        requests: A JSON object a line.
        replies: The same.
    """
    _say(replies, {"ready": ready})
    for line in requests:
        request = json.loads(line)
        try:
            start = time.perf_counter()
            answer = _predicted(system, request) if "tokens" in request else _run(system, request)
            seconds = time.perf_counter() - start
        except Exception:  # the orchestrator decides what a failure means
            _say(replies, {"error": traceback.format_exc()})
        else:
            _say(replies, {"seconds": seconds, **answer})


def _run(system: System, request: dict[str, Any]) -> dict[str, Any]:
    ends = request.get("end_ids", ())
    return {"generated": system.generate(request["prompts"], request["output_tokens"], ends)}


def _predicted(system: System, request: dict[str, Any]) -> dict[str, Any]:
    logits = cast(PredictingSystem, system).logits(request["tokens"], request["rows"])
    logits.tofile(request["file"])
    return {"vocab_size": logits.shape[1]}


GGUF_SOURCE = "source.gguf"
"""In a checkpoint's folder, the same weights as GGUF, where they were made so."""

KV_CACHE_GIB = 1
"""Keys and values that a peer may keep: more than twice what the longest workload needs."""


def answered(tokens: Sequence[int], end_ids: Sequence[int]) -> int:
    """How many tokens an answer has before the first that ended it."""
    return next((place for place, token in enumerate(tokens) if token in end_ids), len(tokens))


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def _own_stdout() -> IO[str]:
    """Standard output for the protocol alone: what libraries print goes to standard error."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return replies


def _say(replies: IO[str], message: dict[str, Any]) -> None:
    replies.write(json.dumps(message) + "\n")
    replies.flush()
