"""`python -m clients "a prompt"`: ask a running Trireme from the command line.

The answer goes to standard output and nothing else does, so that it can be piped; what is wrong
goes to standard error in one line.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import asdict

from clients.client import DEFAULT_ADDRESSES, DEFAULT_TIMEOUT_S, Client
from clients.client_errors import ClientError
from clients.options import GenerationOptions
from clients.results import Piece
from contract.version import VERSION

_USAGE_ERROR = 2
_INTERRUPTED = 130  # what a shell reports for a program that Ctrl-C ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the answer to one prompt; return the exit code.

    0 when the answer is complete, 1 when there is none, 2 when the command line is wrong, 130 when
    Ctrl-C cancelled the request.
    """
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        prompt = sys.stdin.read() if given.prompt == "-" else given.prompt
        client = Client(
            given.url,
            protocol=given.protocol,
            model=given.model,
            timeout_s=given.timeout_s,
            safety_policy=given.safety_policy,
        )
    except ValueError as error:
        parser.error(str(error))
    try:
        with client:
            _answer(client, prompt, given)
    except ClientError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader, `head` say, has what it wanted
        # Python flushes standard output once more as it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return _INTERRUPTED
    return 0


def _answer(client: Client, prompt: str, given: argparse.Namespace) -> None:
    options = GenerationOptions(
        max_tokens=given.max_tokens,
        temperature=given.temperature,
        top_k=given.top_k,
        top_p=given.top_p,
        seed=given.seed,
        stop_words=given.stop,
        bad_words=given.bad,
        return_num_input_tokens=given.usage or None,
        return_num_output_tokens=given.usage or None,
    )
    started = time.monotonic()
    if given.stream:
        with closing(client.stream(prompt, options)) as pieces:
            printed = _print(pieces, given.json)
    else:
        printed = _print([client.generate(prompt, options)], given.json)
    if given.usage:
        print(_usage(printed, time.monotonic() - started), file=sys.stderr)


def _print(pieces: Iterable[Piece], as_json: bool) -> list[Piece]:
    """Print pieces as they come; return them."""
    printed = []
    for piece in pieces:
        printed.append(piece)
        if as_json:
            known = {
                name: value for name, value in asdict(piece).items() if value not in (None, ())
            }
            print(json.dumps(known, ensure_ascii=False), flush=True)
        else:
            print(piece.text, end="", flush=True)
    if not as_json:
        print()
    return printed


def _usage(pieces: Sequence[Piece], elapsed_s: float) -> str:
    tokens_in = pieces[-1].num_input_tokens
    tokens_out = sum(piece.num_output_tokens or 0 for piece in pieces)
    return (
        f"{tokens_in} tokens in, {tokens_out} out ({pieces[-1].finish_reason}), "
        f"{elapsed_s:.2f} s, {tokens_out / elapsed_s:.0f} tokens/s"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m clients", description="Ask a running Trireme for text."
    )
    parser.add_argument("prompt", help="the prompt; - reads it from standard input")
    parser.add_argument("--version", action="version", version=f"Trireme {VERSION}")
    parser.add_argument("--stream", action="store_true", help="print the text as it is made")
    parser.add_argument("--json", action="store_true", help="print the response's fields as JSON")
    parser.add_argument(
        "--usage", action="store_true", help="count tokens and time, on standard error"
    )
    server = parser.add_argument_group("the server")
    server.add_argument(
        "--url", metavar="HOST:PORT", help="by default " + " or ".join(DEFAULT_ADDRESSES.values())
    )
    server.add_argument("--protocol", choices=tuple(DEFAULT_ADDRESSES), default="grpc")
    server.add_argument("--model", default="ensemble")
    server.add_argument("--timeout-s", type=float, default=DEFAULT_TIMEOUT_S, metavar="SECONDS")
    server.add_argument("--safety-policy", metavar="NAME", help="in place of the default one")
    sampling = parser.add_argument_group("the text")
    sampling.add_argument("--max-tokens", type=int, default=GenerationOptions.max_tokens)
    sampling.add_argument("--temperature", type=float, help="alone samples from all tokens")
    sampling.add_argument("--top-k", type=int)
    sampling.add_argument("--top-p", type=float)
    sampling.add_argument("--seed", type=int)
    for word, effect in (("stop", "ends the text"), ("bad", "does not come up in the text")):
        sampling.add_argument(
            f"--{word}",
            action="append",
            default=[],
            metavar="WORD",
            help=f"a word that {effect}; may be given more than once",
        )
    return parser


if __name__ == "__main__":
    # A shell ignores SIGINT for what it starts in the background; that is no wish to go on.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
