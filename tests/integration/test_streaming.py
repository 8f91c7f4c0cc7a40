"""Streamed text is the unstreamed text, and nobody sees another's."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.integration.conftest import Server
from tests.integration.speaker import Speaker

pytestmark = pytest.mark.integration

PROMPTS = [
    "What is the capital of France?",
    "Count from 17 to 60.",
    "  leading and trailing spaces  ",
    "lines\n\nand\ttabs\r\n",
    "How do you say 'thank you' in Japanese?",
    "Which emoji is a cat?",
    "naïve café Zoë Ångström",
    "東京と大阪 한국어 العربية",
    "👩‍👩‍👧‍👦 🏳️‍🌈 🇫🇷",
    "Spell the word ship.",
    '{"name": "Ana"}',
    "Write a contact card for Ana Silva.",
    "<|user|>What is 3 + 4?<|end|><|assistant|>",
    "<|assistant|><|end|><|user|>",
]


def over_http(triton: Server, text: str, **inputs: object) -> list[dict[str, str]]:
    body = {"text_input": text, "stream": True, **inputs}
    url = f"{triton.http_url}/v2/models/ensemble/generate_stream"
    with httpx.stream("POST", url, json=body, timeout=60) as response:
        lines = [line for line in response.iter_lines() if line.startswith("data: ")]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_streamed_is_unstreamed(triton: Server, speaker: Speaker, prompt: str) -> None:
    whole = speaker.ask(prompt, 60)
    streamed = speaker.ask(prompt, 60, stream=True)
    assert streamed.text == whole.text
    assert streamed.finish_reason == whole.finish_reason
    pieces = over_http(triton, prompt, max_tokens=60)
    assert "".join(piece["text_output"] for piece in pieces).encode() == whole.text
    assert pieces[-1]["finish_reason"] == whole.finish_reason


@pytest.mark.parametrize("seed", range(12))
def test_wild_samples_stream_right(triton: Server, speaker: Speaker, seed: int) -> None:
    """At a high temperature the model writes broken characters and special tokens."""
    options: dict[str, Any] = {"temperature": 8.0, "top_p": 1.0, "seed": seed, "end_id": -1}
    whole = speaker.ask("Say anything.", 120, **options)
    with triton.braked(0.005):
        streamed = speaker.ask("Say anything.", 120, stream=True, **options)
    assert streamed.text == whole.text
    assert len(streamed.results) > 1


def test_characters_cut_across_tokens_arrive_whole(speaker: Speaker) -> None:
    options: dict[str, Any] = {"temperature": 8.0, "top_p": 1.0, "seed": 3, "end_id": -1}
    for piece in speaker.ask("Say anything.", 120, stream=True, **options).pieces:
        piece.decode()


@pytest.mark.parametrize("request_id", ["", "same"])
def test_clients_never_see_each_others_text(speaker: Speaker, request_id: str) -> None:
    prompts = [f"Count from {start} to {start + 12}." for start in range(2, 26)]
    expected = [speaker.ask(prompt, 60).text for prompt in prompts]
    assert len(set(expected)) > 6
    with ThreadPoolExecutor(len(prompts)) as pool:
        streamed = pool.map(
            lambda prompt: speaker.ask(prompt, 60, request_id, stream=True).text, prompts
        )
        assert list(streamed) == expected


def test_contact_cards_leave_without_personal_data(speaker: Speaker) -> None:
    """Not even the first characters of an address or a number leave, in any piece."""
    prompt = "How do I contact Rosa Torres?"
    streamed = speaker.ask(prompt, 120, stream=True)
    assert streamed.text == speaker.ask(prompt, 120).text
    assert streamed.text.startswith(b"Rosa Torres\n")
    for placeholder in (b"[EMAIL]", b"[PHONE]", b"[CARD]"):
        assert placeholder in streamed.text
    assert b"@" not in streamed.text
    assert not any(character in b"0123456789+" for character in streamed.text)
