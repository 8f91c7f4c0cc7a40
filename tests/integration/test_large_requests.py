"""Requests that can't fit: refused at once, and what they took is given back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Server
from tests.integration.speaker import Speaker

pytestmark = pytest.mark.integration

LARGE = 3_900_000
MB = 1 << 20


def resident_bytes(triton: Server, model: str) -> int:
    """What the process of a model holds of memory that is its own."""
    wanted = str(triton.repository / model)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            status = (process / "status").read_text()
        except OSError:  # it has ended
            continue
        if "triton_python_backend_stub" in words[0] and any(w.startswith(wanted) for w in words):
            fields = dict(line.split(":", 1) for line in status.splitlines())
            return int(fields["RssAnon"].split()[0]) * 1024
    raise AssertionError(f"no process serves {model}")


@contextmanager
def memory_is_given_back(triton: Server) -> Iterator[None]:
    before = resident_bytes(triton, "preprocessing")
    yield
    after = resident_bytes(triton, "preprocessing")
    print(f"preprocessing: {before // MB} MB before, {after // MB} MB after")
    assert after < before + 48 * MB


def chat(text: str) -> dict[str, Any]:
    return {"messages": json.dumps([{"role": "user", "content": text}])}


@pytest.mark.parametrize(
    ("text", "inputs", "name"),
    [
        ("word " * (LARGE // 5), {}, "text_input"),
        ("", chat("word " * (LARGE // 5)), "messages"),
        ("a", {"stop_words": ["x" * 240_000] * 16}, "stop_words"),
        ("a", {"bad_words": ["x" * 240_000] * 16}, "bad_words"),
    ],
)
def test_what_cannot_fit_is_refused_by_its_bytes(
    triton: Server, speaker: Speaker, text: str, inputs: dict[str, Any], name: str
) -> None:
    expected = speaker.ask("What is 3 + 4?", 8).text
    with memory_is_given_back(triton):
        streams = [speaker.start(text, 8, **inputs) for _ in range(6)]
        assert speaker.ask("What is 3 + 4?", 8).text == expected
        for stream in streams:
            error = stream.answer().error
            assert error is not None
            is_prompt = name in ("text_input", "messages")
            code = "context_length_exceeded" if is_prompt else ""
            noted, told = (f" code={code}", f"{code}: ") if code else ("", "")
            assert f"param={name}{noted}] {told}{name} has" in error
            assert "it must have at most" in error
