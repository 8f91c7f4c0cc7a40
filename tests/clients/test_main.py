"""The command line against a fake Triton."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from clients.__main__ import main
from tests.clients.fakes import Failure, FakeTriton, int32, text


@pytest.fixture
def at(triton: FakeTriton) -> list[str]:
    return ["--url", triton.urls["grpc"]]


def test_prints_the_answer(triton, at, capsys) -> None:
    assert main(["Is this a trireme?", *at]) == 0
    assert capsys.readouterr() == ("yes\n", "")


def test_over_http(triton, capsys) -> None:
    assert main(["?", "--protocol", "http", "--url", triton.urls["http"]]) == 0
    assert capsys.readouterr().out == "yes\n"


def test_streams(triton, at, capsys) -> None:
    triton.script = [text("tri"), text("rème", "stop")]
    assert main(["?", "--stream", *at]) == 0
    assert capsys.readouterr().out == "trirème\n"


def test_prompt_from_standard_input(triton, at, capsys, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("a long prompt"))
    assert main(["-", *at]) == 0
    assert triton.received[0].inputs["text_input"].tolist() == [[b"a long prompt"]]


def test_options_are_sent(triton, at) -> None:
    sampling = "--max-tokens 3 --temperature 0.5 --top-k 2 --top-p 0.5 --seed 7".split()
    words = "--stop one --stop two --bad three".split()
    assert main(["?", *sampling, *words, *at]) == 0
    inputs = {name: np.ravel(value).tolist() for name, value in triton.received[0].inputs.items()}
    assert inputs == {
        "text_input": [b"?"],
        "exclude_input_in_output": [True],
        "max_tokens": [3],
        "temperature": [0.5],
        "top_k": [2],
        "top_p": [0.5],
        "seed": [7],
        "stop_words": [b"one", b"two"],
        "bad_words": [b"three"],
    }


def test_json(triton, at, capsys) -> None:
    triton.script = [text("a"), text("ñ", "stop")]
    assert main(["?", "--stream", "--json", *at]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines] == [
        {"text": "a", "finish_reason": "", "sequence_index": 0},
        {"text": "ñ", "finish_reason": "stop", "sequence_index": 0},
    ]


def test_usage(triton, at, capsys) -> None:
    triton.script = [
        text(word, reason, num_input_tokens=int32(4), num_output_tokens=int32(2))
        for word, reason in (("a", ""), ("b", "length"))
    ]
    assert main(["?", "--stream", "--usage", *at]) == 0
    out, err = capsys.readouterr()
    assert out == "ab\n"
    assert err.startswith("4 tokens in, 4 out (length), ")


def test_error_in_one_line(triton, at, capsys) -> None:
    triton.script = [Failure("INVALID_ARGUMENT", "top_k is -1; it must be 0 or more")]
    assert main(["?", *at]) == 1
    assert capsys.readouterr() == ("", "error: top_k is -1; it must be 0 or more\n")


def test_no_server(capsys) -> None:
    assert main(["?", "--url", "127.0.0.1:1"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [[], ["?", "--bogus"], ["?", "--url", "http://here"], ["?", "--top-k", "x"]]
)
def test_usage_errors(arguments, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "error:" in capsys.readouterr().err


@contextmanager
def program(*arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """The command line as a shell starts it, and its output."""
    process = subprocess.Popen(
        [sys.executable, "-m", "clients", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert process.stdout is not None
    with process:
        yield process, process.stdout


LONG = [text("word "), 0.01] * 6000  # a minute


def test_interrupt_cancels_quietly(triton, at) -> None:
    triton.script = LONG
    with program("?", "--stream", *at) as (process, out):
        assert out.read(5) == b"word "
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20)[1] == b""
    assert process.returncode == 130
    assert triton.cancelled.wait(30)


def test_reader_that_leaves_is_no_error(triton, at) -> None:
    triton.script = LONG
    with program("?", "--stream", *at) as (process, out):
        assert out.read(5) == b"word "
        out.close()
        assert process.wait(timeout=20) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""
