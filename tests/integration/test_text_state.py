"""What postprocessing keeps of answers that end without a word to it is freed."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest

from clients import Client
from ops.triton_process import TritonServer
from tests.integration.conftest import Server, make_repository
from tests.integration.test_cancellation import await_metric, metric, until_begun

pytestmark = pytest.mark.integration

FORGET_AFTER_S = 2
OPEN = "trireme_open_answers"


def test_answers_that_time_out_are_forgotten(tmp_path: Path) -> None:
    setting = f"postprocessing.forget_after_s={FORGET_AFTER_S}"
    repository = make_repository(tmp_path / "repository", setting)
    body = {"text_input": "Count from 1 to 900.", "max_tokens": 2000, "end_id": -1, "stream": True}
    with TritonServer(repository, log=tmp_path / "triton.log") as process:
        server = Server.of(process)
        url = f"{server.http_url}/v2/models/ensemble/generate_stream"

        def ask(limit_s: float) -> bool:
            body["timeout"] = int(limit_s * 1e6)
            text = httpx.post(url, json=body, timeout=60).text
            assert f"timeout of {limit_s:g} s expired" in text
            return '"text_output"' in text

        with server.braked():
            until_begun(ask)
        await_metric(server, OPEN, 1)
        time.sleep(FORGET_AFTER_S)
        deadline = time.monotonic() + 30
        with Client(server.grpc_url) as client:
            while metric(server, OPEN):  # old answers go when there is news of another
                assert client.generate("What is the capital of France?", max_tokens=32).text
                assert time.monotonic() < deadline, "they are kept"
                time.sleep(0.2)
