"""The gateway before real Tritons: what their users see when machines and clients fail."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Semaphore
from typing import Any

import httpx
import pytest
import yaml

from ops.gateway_process import GatewayServer
from ops.triton_process import TritonServer
from tests.integration.conftest import Server, free_port, make_repository
from tests.integration.speaker import Speaker
from tests.integration.test_cancellation import await_cancelled, await_running, cancelled

pytestmark = pytest.mark.integration

COUNT: dict[str, Any] = {
    "model": "demo",
    "messages": [{"role": "user", "content": "Count from 17 to 40."}],
    "temperature": 0,
}
LONG = {**COUNT, "max_tokens": 1500, "ignore_eos": True}
BRAKED_STEP_S = 0.5
OUTLASTING = {**COUNT, "max_tokens": 240, "ignore_eos": True}
"""Takes two minutes on a replica that is braked so, seconds on one that isn't."""


class Caller:
    """A client of one gateway."""

    def __init__(self, gateway: GatewayServer) -> None:
        self.url = f"http://{gateway.address}/v1"

    def ask(self, body: dict[str, Any], path: str = "/chat/completions") -> httpx.Response:
        return httpx.post(self.url + path, json=body, timeout=100, trust_env=False)

    def stream(
        self, body: dict[str, Any], begins: Callable[[], object] = lambda: None
    ) -> tuple[str, str]:
        """The text, and how it ended: the finish reason or the error's code."""
        text, end = "", "cut"
        path = self.url + "/chat/completions"
        body = {**body, "stream": True}
        with httpx.stream("POST", path, json=body, timeout=100, trust_env=False) as response:
            if response.status_code != 200:
                response.read()
                return "", f"status {response.status_code}: {response.text}"
            for line in response.iter_lines():
                if not line or line == "data: [DONE]":
                    continue
                event = json.loads(line.removeprefix("data: "))
                if "error" in event:
                    return text, event["error"]["code"]
                choice = event["choices"][0]
                piece = choice["delta"].get("content") or ""
                if piece and not text:
                    begins()
                text += piece
                end = choice["finish_reason"] or end
        return text, end


def write_config(folder: Path, **values: Any) -> Path:
    path = folder / "gateway.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def gateway(triton: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayServer]:
    log = tmp_path_factory.mktemp("gateway") / "gateway.log"
    with GatewayServer(triton.grpc_url, port=free_port(), log=log) as server:
        yield server


def test_it_says_what_triton_says(gateway: GatewayServer, speaker: Speaker) -> None:
    straight = speaker.ask("Count from 17 to 40.", 256).text.decode()
    caller = Caller(gateway)
    assert caller.stream(COUNT) == (straight, "stop")
    answer = caller.ask(COUNT).json()["choices"][0]
    assert (answer["message"]["content"], answer["finish_reason"]) == (straight, "stop")


def test_a_completion_s_prompt_is_taken_as_it_is(gateway: GatewayServer) -> None:
    caller = Caller(gateway)
    bodies: list[dict[str, Any]] = [
        {"model": "demo", "prompt": "The sea", "max_tokens": 4},
        {**COUNT, "messages": [{"role": "user", "content": "The sea"}], "max_tokens": 4},
    ]
    raw, chat = (
        caller.ask(body, path).json()["usage"]["prompt_tokens"]
        for body, path in zip(bodies, ("/completions", "/chat/completions"), strict=True)
    )
    assert raw < chat  # a chat has its template around it


@pytest.mark.parametrize("stream", [False, True])
def test_a_completion_reports_the_likeliest_tokens(gateway: GatewayServer, stream: bool) -> None:
    body = {"model": "demo", "prompt": "The sea", "max_tokens": 4, "temperature": 0}
    answer = Caller(gateway).ask({**body, "logprobs": 3, "stream": stream}, "/completions")
    lines = answer.text.splitlines() if stream else [answer.text]
    events = [line.removeprefix("data: ") for line in lines if line and "[DONE]" not in line]
    found: dict[str, list[Any]] = {}
    text = ""
    for choice in (json.loads(event)["choices"][0] for event in events):
        text += choice["text"]
        for name, values in (choice["logprobs"] or {}).items():
            found.setdefault(name, []).extend(values)
    assert "".join(found["tokens"]) == text
    for token, logprob, top in zip(
        found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True
    ):
        assert len(top) == 3
        assert max(top, key=top.__getitem__) == token  # greedy
        assert top[token] == pytest.approx(logprob)
    places = range(len(found["tokens"]))
    assert found["text_offset"] == [len("".join(found["tokens"][:place])) for place in places]


def test_a_token_can_be_banned_by_its_id(gateway: GatewayServer) -> None:
    body = {**COUNT, "max_tokens": 1, "logprobs": True, "top_logprobs": 2}
    content = Caller(gateway).ask(body).json()["choices"][0]["logprobs"]["content"]
    assert content[0]["top_logprobs"][0]["token"] == content[0]["token"]
    usual = content[0]["token"]
    banned = []
    for first in range(0, 4000, 500):  # a part of the vocabulary at a time
        bias = {str(token): -100.0 for token in range(first, first + 500)}
        answer = Caller(gateway).ask({**body, "logit_bias": bias})
        if answer.status_code != 200:
            assert answer.json()["error"]["param"] == "logit_bias"  # past the vocabulary's end
            break
        token = answer.json()["choices"][0]["logprobs"]["content"][0]["token"]
        banned.append(token != usual)
    assert any(banned)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_the_engine(
    gateway: GatewayServer, triton: Server, stream: bool
) -> None:
    before = cancelled(triton)
    url = f"http://{gateway.address}/v1/chat/completions"

    async def come_and_go() -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            if stream:
                async with client.stream("POST", url, json={**LONG, "stream": True}) as answer:
                    await anext(answer.aiter_lines())
            else:
                asked = asyncio.create_task(client.post(url, json=LONG))
                await asyncio.to_thread(await_running, triton)
                asked.cancel()

    with triton.braked():
        asyncio.run(come_and_go())
        left_s = time.monotonic()
        await_cancelled(triton, before + 1)
    print(f"the engine was free after {time.monotonic() - left_s:.2f} s (stream={stream})")


def test_what_the_engine_refuses_names_openai_s_field(gateway: GatewayServer) -> None:
    answer = Caller(gateway).ask({**COUNT, "max_tokens": 4000})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "max_tokens"
    assert "context of 2048 tokens" in answer.json()["error"]["message"]
    assert answer.json()["error"]["code"] == "context_length_exceeded"


def test_a_default_length_fits_the_room_that_a_long_prompt_leaves(gateway: GatewayServer) -> None:
    body = {"model": "demo", "prompt": "a b c d " * 500, "ignore_eos": True, "temperature": 0}
    answer = Caller(gateway).ask(body, "/completions").json()
    usage, (choice,) = answer["usage"], answer["choices"]
    assert usage["prompt_tokens"] > 2048 - 256
    assert usage["total_tokens"] == 2048
    assert choice["finish_reason"] == "length"


def test_penalties_count_the_answer_alone(gateway: GatewayServer) -> None:
    body = {"model": "demo", "prompt": "The sea is in", "max_tokens": 1, "temperature": 0}
    plain, penalized = (
        Caller(gateway).ask({**body, "logprobs": 5, **more}, "/completions").json()["choices"]
        for more in ({}, {"frequency_penalty": 2, "presence_penalty": 2})
    )
    assert plain == penalized
    again = [
        Caller(gateway).ask({**body, "max_tokens": 64, "ignore_eos": True, **more}, "/completions")
        for more in ({}, {"frequency_penalty": 2, "presence_penalty": 2})
    ]
    assert again[0].json()["choices"] != again[1].json()["choices"]


@pytest.mark.parametrize("stream", [False, True])
def test_no_stop_text_ends_the_tokens_that_are_wanted_at_least(
    gateway: GatewayServer, stream: bool
) -> None:
    caller = Caller(gateway)
    endless = {**COUNT, "max_tokens": 60, "ignore_eos": True}
    whole, _ = caller.stream(endless)
    asked = {**endless, "stop": [whole[3:6]]}

    def text(body: dict[str, Any]) -> str:
        if stream:
            return caller.stream(body)[0]
        return str(caller.ask(body).json()["choices"][0]["message"]["content"])

    assert text(asked) == whole[:3]
    assert whole.startswith(text({**asked, "min_tokens": 12}))
    assert len(text({**asked, "min_tokens": 12})) > 6
    assert text({**asked, "min_tokens": 60}) == whole


@contextmanager
def two_replicas(triton: Server, folder: Path) -> Iterator[tuple[TritonServer, Caller]]:
    """A gateway before the server of all tests and one that may be harmed."""
    repository = make_repository(folder / "repository")
    with TritonServer(repository, log=folder / "triton.log") as victim:
        names = {"victim": victim.grpc_address, "survivor": triton.grpc_url}
        config = write_config(
            folder,
            upstreams=[
                {"kind": "triton", "name": name, "address": address}
                for name, address in names.items()
            ],
            models={"demo": {"versions": [{"name": "demo", "upstreams": [*names]}]}},
            health={"interval_s": 0.5, "open_s": 0.2},
        )
        log = folder / "gateway.log"
        with GatewayServer(None, port=free_port(), log=log, config=config) as gateway:
            yield victim, Caller(gateway)
        if victim.pid is not None:  # one that was harmed doesn't end by itself
            os.killpg(victim.pid, signal.SIGKILL)


def processes_of(triton: TritonServer) -> dict[str, int]:
    """The process of each of a server's Python models."""
    found: dict[str, int] = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError):
            if f"\nPPid:\t{triton.pid}\n" in status.read_text():
                command = status.with_name("cmdline").read_text()
                found |= {
                    Path(model).parents[1].name: int(status.parent.name)
                    for model in re.findall(r"[^\0]+/model\.py", command)
                }
    return found


@pytest.mark.parametrize("dies", ["server", "preprocessing", "tensorrt_llm", "postprocessing"])
def test_a_process_that_is_killed_loses_nothing_that_had_not_begun(
    triton: Server, tmp_path: Path, dies: str
) -> None:
    """Kill -9 under load: who had no token yet is answered by the other replica."""
    with two_replicas(triton, tmp_path) as (victim, caller), ThreadPoolExecutor(24) as pool:
        assert victim.pid is not None
        replicas = (Server.of(victim), triton)
        expected = caller.stream(OUTLASTING)
        with triton.braked(BRAKED_STEP_S), replicas[0].braked(BRAKED_STEP_S):
            # Nothing ends, so each replica gets half of either kind.
            whole = [pool.submit(caller.ask, OUTLASTING) for _ in range(4)]
            for replica in replicas:
                await_running(replica, 2)
            begun = Semaphore(0)
            running = [pool.submit(caller.stream, OUTLASTING, begun.release) for _ in range(8)]
            assert all(begun.acquire(timeout=60) for _ in running)
            running += [pool.submit(caller.stream, OUTLASTING) for _ in range(4)]
            for replica in replicas:
                await_running(replica, 8)
            if dies == "server":
                os.killpg(victim.pid, signal.SIGKILL)
            else:
                os.kill(processes_of(victim)[dies], signal.SIGKILL)
        killed_s = time.monotonic()
        later = [pool.submit(caller.stream, OUTLASTING) for _ in range(8)]
        ends = [future.result(90) for future in [*running, *later]]
        answers = [future.result(90) for future in whole]
        took_s = time.monotonic() - killed_s
    lost = [end for end in ends if end[1] == "upstream_lost"]
    print(
        f"{dies} killed: {len(ends)} streams: {len(ends) - len(lost)} whole, {len(lost)} lost "
        f"after they began; {len(answers)} others answered; all done after {took_s:.1f} s"
    )
    assert len(lost) <= 4 + 2, "more than had begun there"
    for text, end in ends:
        assert end in ("length", "upstream_lost"), end
        assert expected[0].startswith(text) if end == "upstream_lost" else text == expected[0]
    # What does not stream has not begun before it is done: none of it is lost.
    assert [(answer.status_code, answer.text) for answer in answers if answer.is_error] == []
    assert {a.json()["choices"][0]["message"]["content"] for a in answers} == {expected[0]}


def test_another_gateway_as_the_fallback(gateway: GatewayServer, tmp_path: Path) -> None:
    """No replica is there: another server that speaks the API answers, and the answer says so."""
    config = write_config(
        tmp_path,
        upstreams=[
            {"kind": "triton", "name": "gone", "address": f"127.0.0.1:{free_port()}"},
            {"kind": "openai", "name": "cloud", "url": f"http://{gateway.address}/v1"},
        ],
        models={
            "demo": {
                "versions": [{"name": "demo", "upstreams": ["gone"]}],
                "fallback": {"upstream": "cloud", "model": "demo"},
            }
        },
    )
    log = tmp_path / "gateway.log"
    with GatewayServer(None, port=free_port(), log=log, config=config) as second:
        answer = Caller(second).ask(COUNT)
        assert answer.headers["x-trireme-served-by"] == "cloud"
        assert Caller(second).stream(COUNT) == (Caller(gateway).stream(COUNT)[0], "stop")
