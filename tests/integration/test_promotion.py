"""Versions come and go under a running Triton, and nobody who is being answered notices."""

from __future__ import annotations

import json
import secrets
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from build.artifacts.artifact_store import Store
from build.artifacts.promotion import Repository
from clients import Client
from ensembles.repository import assemble
from ensembles.repository_settings import RepositorySettings
from ops.reload import reload
from ops.triton_process import TritonError, TritonServer
from tests.build.builds import DEMO, build_version, make_workshop
from tests.integration.conftest import Server, add_brake

TOKEN = secrets.token_hex(8)
pytestmark = pytest.mark.integration


class Site:
    """A Triton that serves promoted versions of the demo."""

    def __init__(self, folder: Path, server: TritonServer) -> None:
        self.store = Store(folder / "artifacts")
        self.repository = Repository(folder / "repository")
        self.server = server

    def served(self) -> list[str]:
        with urllib.request.urlopen(
            f"http://{self.server.http_address}/v2/models/tensorrt_llm", timeout=10
        ) as response:
            versions: list[str] = json.load(response)["versions"]
        return versions

    def promote(self, version: int) -> list[str]:
        self.repository.promote(self.store.get(version))
        return reload(self.server.http_address, TOKEN)

    def braked(self) -> AbstractContextManager[None]:
        return Server.of(self.server).braked(0.5)

    def ask(self) -> str:
        with Client(self.server.grpc_address) as client:
            return client.generate("What is 17 + 25?", max_tokens=32).text


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    for weights in ("fp32", "int8", "int4"):
        build_version(folder, DEMO, target={"weights": weights})
    repository = Repository(folder / "repository")
    repository.trust(make_workshop(folder).key.public_key())
    repository.promote(Store(folder / "artifacts").get(1))
    assemble(folder / "repository", RepositorySettings())
    add_brake(folder / "repository")
    server = TritonServer(folder / "repository", log=folder / "triton.log", control_token=TOKEN)
    with server:
        yield Site(folder, server)


@pytest.fixture(autouse=True)
def _version_1(site: Site) -> None:
    if site.served() != ["1"]:
        assert site.promote(1) == ["1"]


def test_a_stream_outlives_a_promotion_and_a_rollback(site: Site) -> None:
    reasons: list[str | None] = []
    begun, may_end = threading.Semaphore(0), threading.Event()
    failures: list[BaseException] = []

    def stream() -> None:
        reason = None
        with Client(site.server.grpc_address) as client:
            # No end token: it goes on to its last token, whatever it says.
            for piece in client.stream("Count from 1 to 190.", max_tokens=300, end_id=-1):
                if reason is None:
                    begun.release()
                reason = piece.finish_reason
        reasons.append(reason)

    def ask_again_and_again() -> None:
        while not may_end.is_set():
            try:
                assert site.ask() == "17+25=42"
            except BaseException as error:
                failures.append(error)
                return

    threads = [threading.Thread(target=each) for each in (stream, stream, ask_again_and_again)]
    with site.braked():
        for thread in threads:
            thread.start()
        try:
            assert all(begun.acquire(timeout=60) for _ in range(2))
            assert site.promote(2) == ["2"]
            site.repository.roll_back(site.store)
            assert reload(site.server.http_address, TOKEN) == ["1"]
            assert not reasons, "the streams were to be open meanwhile"
        finally:
            may_end.set()
    for thread in threads:
        thread.join(100)
    assert failures == []
    assert reasons == ["length", "length"]


def test_a_version_that_was_tampered_with_is_refused_and_the_one_before_goes_on(
    site: Site,
) -> None:
    site.repository.promote(site.store.get(3))
    weights = site.repository.root / "tensorrt_llm" / "3" / "weights.bin"
    data = bytearray(weights.read_bytes())
    data[5000] ^= 1
    weights.unlink()  # it is a link to the store's
    weights.write_bytes(data)
    with pytest.raises(TritonError, match=r"weights\.bin is not the file that was signed"):
        reload(site.server.http_address, TOKEN)
    assert site.served() == ["1"]
    assert site.ask() == "17+25=42"


def test_loading_models_takes_the_token(site: Site) -> None:
    with pytest.raises(TritonError, match="restricted"):
        reload(site.server.http_address, "another")
    url = f"http://{site.server.http_address}/v2/repository/models/tensorrt_llm/unload"
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(urllib.request.Request(url, b"{}", method="POST"), timeout=10)
    assert site.served() == ["1"]


def test_triton_does_not_start_on_an_unsigned_engine(site: Site, tmp_path: Path) -> None:
    repository = Repository(tmp_path / "repository")
    repository.trust(make_workshop(site.store.root.parent).key.public_key())
    repository.promote(site.store.get(1))
    (repository.root / "tensorrt_llm" / "1" / "model.sig").unlink()
    assemble(repository.root, RepositorySettings())
    server = TritonServer(repository.root, log=tmp_path / "triton.log")
    with pytest.raises(TritonError, match="it is not signed"):
        server.start()
