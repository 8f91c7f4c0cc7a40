"""Behind an engine that sends no more than TensorRT-LLM's C++ backend, streams are as right."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from contract.nvidia import CPP_BACKEND_MODEL
from ensembles.repository import assemble
from ensembles.repository_settings import RepositorySettings
from ops.triton_process import TritonServer
from tests.integration.conftest import CHECKPOINT
from tests.integration.speaker import Speaker

pytestmark = pytest.mark.integration

STAND_IN = Path(__file__).with_name("cpp_backend_stand_in.py")
HANGING = Path(__file__).with_name("hanging_adapter.py")
HUNG_AFTER_S = 10
SETTINGS = [
    "engine=tensorrt_llm",
    f"preprocessing.tokenizer_dir={CHECKPOINT}",
    f"postprocessing.tokenizer_dir={CHECKPOINT}",
    "preprocessing.chat_template=off",
]
TEXT = "Write to ana.silva@acme.example or call +44 20 7946 0123: déjà vu, 東京 🐱, naïve. "
SAFE = "Write to [EMAIL] or call [PHONE]: déjà vu, 東京 🐱, naïve. "


class Server(NamedTuple):
    speaker: Speaker
    http_url: str
    log: Path

    @contextmanager
    def held(self) -> Iterator[None]:
        """Until it is left, the engine ends nothing that it isn't told to end."""
        hold = self.log.with_name("hold")
        hold.touch()
        try:
            yield
        finally:
            hold.unlink()

    def runs(self, count: int) -> list[dict[str, Any]]:
        """What the engine says of its requests, as soon as so many are done."""
        deadline = time.monotonic() + 30
        while len(lines := self.log.read_text().splitlines()) < count:
            assert time.monotonic() < deadline, "the engine goes on"
            time.sleep(0.02)
        return [json.loads(line) for line in lines]


def make_repository(folder: Path, *assignments: str) -> Path:
    """A repository with the stand-in in the backend's place, and a watchdog that is soon awake."""
    repository = folder / "repository"
    assemble(repository, RepositorySettings.from_assignments([*SETTINGS, *assignments]))
    model = repository / "tensorrt_llm"
    config = text_format.Parse((model / "config.pbtxt").read_text(), pb.ModelConfig())
    config.backend = "python"
    config.ClearField("parameters")
    # The C++ backend's own scheduler takes the queue; a Python model behind it hangs (Triton 2.51).
    config.ClearField("dynamic_batching")
    config.parameters["log"].string_value = str(folder / "runs.jsonl")
    (model / "config.pbtxt").write_text(text_format.MessageToString(config))
    (model / "1" / "model.py").write_text(STAND_IN.read_text())
    adapter = repository / "tensorrt_llm_adapter" / "config.pbtxt"
    config = text_format.Parse(adapter.read_text(), pb.ModelConfig())
    config.parameters["hung_after_s"].string_value = str(HUNG_AFTER_S)
    adapter.write_text(text_format.MessageToString(config))
    return repository


@contextmanager
def ends_with_its_models(triton: TritonServer) -> Iterator[None]:
    """End a Triton whose model's process has ended: then nobody waits for an answer of it."""
    left, seen = Event(), Event()

    def watch() -> None:
        while not left.wait(0.5):
            if triton.dead_models:
                seen.set()
                triton.stop()

    watcher = Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        left.set()
        watcher.join()
    assert not seen.is_set(), f"a model's process hung or died: {triton.log}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("cpp_backend")
    triton = TritonServer(make_repository(folder), log=folder / "triton.log")
    with triton, ends_with_its_models(triton):
        speaker = Speaker(f"127.0.0.1:{triton.ports.grpc}")
        yield Server(speaker, f"http://127.0.0.1:{triton.ports.http}", folder / "runs.jsonl")


@pytest.fixture
def log(server: Server) -> None:
    server.log.write_text("")


def prompt(text: str) -> str:
    """The stand-in leaves the first token out."""
    return "." + text


def test_the_engine_is_offered_nothing_but_its_own_tensors(server: Server) -> None:
    config = httpx.get(f"{server.http_url}/v2/models/tensorrt_llm/config").json()
    assert {each["name"] for each in config["output"]} == set(CPP_BACKEND_MODEL.output_names())
    assert not {"sequence_id", "finish_reason"} & {each["name"] for each in config["output"]}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("request_id", ["", "the same for all"])
def test_streams_side_by_side_are_whole_and_safe(
    server: Server, log: None, request_id: str, stream: bool
) -> None:
    texts = [f"{number} {TEXT * (1 + number % 2)}" for number in range(10)]
    with ThreadPoolExecutor(len(texts)) as pool:
        answers = list(
            pool.map(
                lambda text: server.speaker.ask(prompt(text), 900, request_id, stream=stream), texts
            )
        )
    for text, answer in zip(texts, answers, strict=True):
        assert answer.text.decode() == text.replace(TEXT, SAFE)
        assert answer.finish_reason == "stop"
        assert stream == (len(answer.results) > 1)
    ids = [run["id"] for run in server.runs(len(texts))]
    assert len(set(ids)) == len(texts)
    assert request_id not in ids


def test_an_answer_out_of_tokens_says_so(server: Server) -> None:
    answer = server.speaker.ask(prompt(TEXT), 3, stream=True)
    assert answer.finish_reason == "length"


@pytest.mark.parametrize("stream", [True, False])
def test_a_stop_text_ends_the_text_and_the_engine(server: Server, log: None, stream: bool) -> None:
    text = "The cats, the dogs. " * 60
    options: dict[str, Any] = {
        "stop_words": ["s, the d"],
        "include_stop_str_in_output": False,
        "stream": stream,
    }
    with server.held():
        answer = server.speaker.ask(prompt(text), 900, **options)
        (run,) = server.runs(1)
    assert run["stopped"]
    assert answer.text == b"The cat"
    assert answer.finish_reason == "stop"


def test_a_client_that_leaves_ends_its_own_request_alone(server: Server, log: None) -> None:
    text = "Some words of a long text. " * 60
    with server.held():
        leaving = server.speaker.start(prompt(text), 900, "shared", stream=True)
        staying = server.speaker.start(prompt(text), 900, "shared", stream=True)
        leaving.next()
        leaving.cancel()
        assert [run["stopped"] for run in server.runs(1)] == [True]
    assert staying.answer().text.decode() == text
    assert [run["stopped"] for run in server.runs(2)] == [True, False]


def test_batches_and_several_sequences_find_their_state(server: Server) -> None:
    inputs = np.array([[prompt(TEXT)], [prompt("A cat. ")]], dtype=object)
    stream = server.speaker.start(
        inputs,
        np.array([[200], [200]]),
        stream=np.array([[True], [True]]),
        num_return_sequences=np.array([[2], [2]]),
    )
    answer = stream.answer()
    texts: dict[tuple[int, int], bytes] = {}
    for result in answer.results:
        row, copy = (result.as_numpy(f"{each}_index").item() for each in ("batch", "sequence"))
        index = (int(row), int(copy))
        texts[index] = texts.get(index, b"") + result.as_numpy("text_output")[0]
    assert {index: text.decode() for index, text in texts.items()} == {
        (0, 0): SAFE,
        (0, 1): SAFE,
        (1, 0): "A cat. ",
        (1, 1): "A cat. ",
    }


def test_an_adapter_that_hangs_ends_and_its_clients_are_told(tmp_path: Path) -> None:
    """For Triton it is as ready as ever; whoever started Triton sees the process that ended."""
    repository = make_repository(tmp_path)
    model = repository / "tensorrt_llm_adapter" / "1" / "model.py"
    model.unlink()
    model.symlink_to(HANGING)
    with TritonServer(repository, log=tmp_path / "triton.log") as triton:
        speaker = Speaker(f"127.0.0.1:{triton.ports.grpc}")
        assert speaker.ask(prompt("A cat."), 9).text == b"A cat."
        (repository / "hang").touch()
        started_s = time.monotonic()
        waiting = speaker.start(prompt("A cat."), 9, stream=True)
        while not triton.dead_models:
            assert time.monotonic() < started_s + 6 * HUNG_AFTER_S, "it hangs unseen"
            time.sleep(0.1)
        assert waiting.answer().error
        log = triton.log.read_text()
    assert f"Timeout (0:00:{HUNG_AFTER_S}" in log
    assert "in execute" in log


def test_without_decoupled_mode_infer_has_one_answer(tmp_path: Path) -> None:
    repository = make_repository(tmp_path, "decoupled_mode=false")
    with TritonServer(repository, log=tmp_path / "triton.log") as triton:
        url = f"http://127.0.0.1:{triton.ports.http}/v2/models/ensemble"
        inputs = [
            {"name": "text_input", "shape": [1, 1], "datatype": "BYTES", "data": [prompt(TEXT)]},
            {"name": "max_tokens", "shape": [1, 1], "datatype": "INT32", "data": [200]},
            {
                "name": "exclude_input_in_output",
                "shape": [1, 1],
                "datatype": "BOOL",
                "data": [True],
            },
        ]
        with ThreadPoolExecutor(8) as threads:
            answers = list(
                threads.map(
                    lambda _: httpx.post(f"{url}/infer", json={"inputs": inputs}, timeout=60),
                    range(40),
                )
            )
        told = {
            each["name"]: each["data"] for answer in answers for each in answer.json()["outputs"]
        }
        assert {answer.status_code for answer in answers} == {200}
        assert told["text_output"] == [SAFE]
        assert told["finish_reason"] == ["stop"]
        stream = {"text_input": TEXT, "max_tokens": 9, "stream": True}
        refused = httpx.post(f"{url}/generate", json=stream, timeout=60)
        assert "decoupled_mode=false" in refused.json()["error"]
