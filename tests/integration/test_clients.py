"""The clients against a real Triton with the demo engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import closing

import pytest

from clients import (
    AsyncClient,
    Client,
    DeadlineExceededError,
    GenerationOptions,
    InvalidRequestError,
    ServerUnavailableError,
)
from clients.__main__ import main
from clients.client import WireProtocol
from clients.options import OptionKeywords
from clients.perf import __main__ as perf
from tests.integration.conftest import Server
from tests.integration.test_cancellation import await_cancelled, cancelled, until_begun

pytestmark = pytest.mark.integration

PROMPT = "Count from 17 to 140."
# No token ends it, so that it is cancelled or wrong.
LONG = GenerationOptions(max_tokens=2000, end_id=-1)


@pytest.fixture(params=["grpc", "http"])
def protocol(request):
    return request.param


@pytest.fixture
def url(triton: Server, protocol: WireProtocol) -> str:
    return {"grpc": triton.grpc_url, "http": triton.http_url}[protocol]


@pytest.fixture
def client(url: str, protocol: WireProtocol) -> Iterator[Client]:
    with Client(url, protocol=protocol, timeout_s=60) as client:
        yield client


def test_ready(client: Client) -> None:
    assert client.is_ready()
    client.wait_until_ready(30)


def test_stream_is_the_answer_in_pieces(triton: Server, client: Client) -> None:
    result = client.generate(PROMPT, max_tokens=32)
    with triton.braked(0.02):
        pieces = list(client.stream(PROMPT, max_tokens=32))
    assert result.text
    assert "".join(piece.text for piece in pieces) == result.text
    assert len(pieces) > 1
    assert [piece.finish_reason for piece in pieces[:-1]] == [""] * (len(pieces) - 1)
    assert pieces[-1].finish_reason == result.finish_reason in {"stop", "length"}


def test_protocols_agree(triton: Server) -> None:
    options = GenerationOptions(
        max_tokens=16,
        temperature=0.8,
        seed=11,
        return_log_probs=True,
        num_top_log_probs=3,
        return_num_input_tokens=True,
        return_num_output_tokens=True,
    )
    with Client(triton.grpc_url) as grpc, Client(triton.http_url, protocol="http") as http:
        over_grpc, over_http = (each.generate(PROMPT, options) for each in (grpc, http))
    assert over_grpc.text == over_http.text
    assert over_grpc.num_input_tokens == over_http.num_input_tokens
    assert over_grpc.num_output_tokens == over_http.num_output_tokens
    assert over_grpc.log_probs == pytest.approx(over_http.log_probs, rel=1e-5)
    assert over_grpc.top_log_probs is not None
    assert over_http.top_log_probs is not None
    for each, same in zip(over_grpc.top_log_probs, over_http.top_log_probs, strict=True):
        assert [token for token, _ in each] == [token for token, _ in same]
        assert len(each) == 3
    assert over_grpc.cum_log_prob == pytest.approx(sum(over_grpc.log_probs or ()), rel=1e-4)


def test_log_probabilities_come_with_their_text(client: Client) -> None:
    options = GenerationOptions(max_tokens=32, return_log_probs=True, num_top_log_probs=2)
    pieces = list(client.stream(PROMPT, options))
    tokens = [token for piece in pieces for token in piece.tokens or ()]
    likeliest = [texts for piece in pieces for texts in piece.top_tokens or ()]
    assert "".join(tokens) == "".join(piece.text for piece in pieces) != ""
    assert len(tokens) == sum(len(piece.log_probs or ()) for piece in pieces) == len(likeliest)
    assert [texts[0] for texts in likeliest] == tokens  # greedy


def test_verdicts_say_what_was_taken_out(client: Client) -> None:
    question = "How do I contact Rosa Torres?"
    pieces = list(client.stream(question, max_tokens=96))
    whole = client.generate(question, max_tokens=96)
    verdicts = [verdict for piece in pieces for verdict in piece.verdicts]
    assert tuple(verdicts) == whole.verdicts
    assert [(each.kind, each.action, each.side, each.rule) for each in verdicts] == [
        (kind, "redact", "output", "personal-data") for kind in ("email", "phone", "card")
    ]
    assert all(f"[{each.kind.upper()}]" in whole.text for each in verdicts)
    assert all(each.start < each.end for each in verdicts)


def test_a_safety_policy_is_chosen(url: str, protocol: WireProtocol) -> None:
    with Client(url, protocol=protocol, safety_policy="strict") as strict:
        pieces = list(strict.stream("How do I contact Rosa Torres?", max_tokens=96))
    assert pieces[-1].finish_reason == "content_filter"
    assert pieces[-1].verdicts[-1].kind == "card"
    with (
        Client(url, protocol=protocol, safety_policy="sdandard") as misspelt,
        pytest.raises(InvalidRequestError, match="safety_policy is 'sdandard'; there are"),
    ):
        misspelt.generate(PROMPT)


def test_a_prompt_that_a_policy_blocks_is_refused(url: str, protocol: WireProtocol) -> None:
    with (
        Client(url, protocol=protocol, safety_policy="strict") as strict,
        pytest.raises(InvalidRequestError, match=r"^content_filter: the policy strict"),
    ):
        strict.generate("My key is sk-0123456789abcdefghijklmnop")


def test_seed_repeats_and_temperature_samples(client: Client) -> None:
    def draw(seed: int) -> str:
        return client.generate(PROMPT, max_tokens=24, temperature=8.0, seed=seed).text

    assert draw(1) == draw(1)
    assert len({draw(seed) for seed in range(6)}) > 1


def test_all_options_are_taken(client: Client) -> None:
    result = client.generate(
        PROMPT,
        max_tokens=8,
        min_tokens=8,
        temperature=0.9,
        top_k=5,
        top_p=0.9,
        seed=2**64 - 1,
        stop_words=["☃"],
        bad_words=["☂"],
        repetition_penalty=1.1,
        presence_penalty=0.1,
        frequency_penalty=0.1,
        embedding_bias={"1": 0.5},
        exclude_input_in_output=True,
        return_perf_metrics=True,
        return_num_output_tokens=True,
    )
    assert result.finish_reason == "length"
    assert result.num_output_tokens == 8
    assert result.perf_metrics is not None
    assert 0 <= result.perf_metrics.queue_s <= result.perf_metrics.time_to_first_token_s < 30


def test_input_in_output(client: Client) -> None:
    result = client.generate(PROMPT, max_tokens=4, exclude_input_in_output=False)
    assert PROMPT in result.text


def test_several_answers(client: Client) -> None:
    results = client.generate_all(
        PROMPT, max_tokens=12, temperature=8.0, seed=5, num_return_sequences=3
    )
    assert [result.sequence_index for result in results] == [0, 1, 2]
    assert len({result.text for result in results}) > 1
    pieces = client.stream(PROMPT, max_tokens=12, temperature=8.0, seed=5, num_return_sequences=3)
    texts = ["", "", ""]
    for piece in pieces:
        texts[piece.sequence_index] += piece.text
    assert texts == [result.text for result in results]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"top_p": 3.0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 100_000}, "max_tokens"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
    ],
)
def test_refusals_name_the_input(client: Client, options: OptionKeywords, name: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        client.generate(PROMPT, **options)
    assert caught.value.input_name == name
    with pytest.raises(InvalidRequestError):
        list(client.stream(PROMPT, **options))


def test_model_that_is_not_there(url: str, protocol: WireProtocol) -> None:
    with (
        Client(url, protocol=protocol, model="galley") as client,
        pytest.raises(ServerUnavailableError, match="does not have the model"),
    ):
        client.generate(PROMPT)


def test_leaving_a_stream_ends_the_request(triton: Server, client: Client) -> None:
    before = cancelled(triton)
    with triton.braked():
        with closing(client.stream(PROMPT, LONG)) as pieces:
            next(pieces)
        await_cancelled(triton, before + 1)


def test_deadline(triton: Server, client: Client) -> None:
    before = cancelled(triton)

    def ask(limit_s: float) -> bool:
        begun = False
        try:
            for _ in client.stream(PROMPT, LONG, timeout_s=limit_s):
                begun = True
        except DeadlineExceededError:
            return begun
        pytest.fail("the deadline passed unheard")

    with triton.braked():
        until_begun(ask)
        await_cancelled(triton, before + 1)


def test_many_tasks_and_a_cancelled_one(triton: Server, url: str, protocol: WireProtocol) -> None:
    async def ask() -> list[str]:
        async with AsyncClient(url, protocol=protocol) as client:
            begun = asyncio.Event()

            async def read() -> None:
                async for _ in client.stream(PROMPT, LONG):
                    begun.set()

            reader = asyncio.create_task(read())
            answers = await asyncio.gather(
                *(client.generate(PROMPT, max_tokens=8) for _ in range(16))
            )
            await begun.wait()
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            return [answer.text for answer in answers]

    before = cancelled(triton)
    with triton.braked():
        assert len(set(asyncio.run(ask()))) == 1
        await_cancelled(triton, before + 1)


def test_command_line(triton: Server, capsys) -> None:
    assert main(["Spell the word lantern.", "--stream", "--usage", "--url", triton.grpc_url]) == 0
    out, err = capsys.readouterr()
    assert out.strip()
    assert "tokens in" in err


@pytest.mark.timeout(300)
def test_load_test(triton: Server, tmp_path, capsys) -> None:
    arguments = ["--url", triton.grpc_url, "--reports", str(tmp_path), "--concurrency", "1,4"]
    assert perf.main([*arguments, "--request-count", "24", "--max-tokens", "8"]) == 0
    levels = json.loads((tmp_path / "perf.json").read_text())["levels"]
    assert [level["concurrency"] for level in levels] == [1, 4]
    for level in levels:
        assert level["requests"] >= 24
        assert level["output_tokens"] == 8 * level["requests"]
        assert 0 < level["time_to_first_token_ms"]["p50"] <= level["request_latency_ms"]["p50"]
