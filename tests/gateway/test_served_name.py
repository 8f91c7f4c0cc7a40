"""What a gateway before one Triton calls its model follows a file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.configuration import Configuration, HealthSettings, TritonSettings
from gateway.gateway_errors import ModelNotFound
from gateway.open_access import LOCAL
from gateway.routing import Router
from gateway.served_name import follow
from gateway.upstreams.fleet import Replica
from ops.served_model import ServedModel
from tests.gateway.fakes import FakeUpstream

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def following(path: Path) -> AsyncIterator[Router]:
    settings = TritonSettings(name="local", address="localhost:1")
    replica = Replica(settings, FakeUpstream(), HealthSettings(), probe_model="ensemble")
    router = Router(Configuration.for_triton("localhost:1", model="old"), {"local": replica})
    task = asyncio.create_task(follow(path, router, every_s=0.01))
    yield router
    task.cancel()


def called(router: Router) -> list[str]:
    return [model.name for model in router.models(LOCAL)]


async def until(router: Router, *names: str) -> None:
    for _ in range(500):
        if called(router) == [*names]:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"the models are {called(router)}, not {names}")


async def test_the_name_is_the_promoted_models(tmp_path: Path) -> None:
    path = tmp_path / "served.json"
    async with following(path) as router:
        under_way = router.resolve("old", LOCAL)
        await asyncio.sleep(0.05)
        assert called(router) == ["old"]  # there is no file yet
        ServedModel("mine", 86_400, 2048).write(path)
        await until(router, "mine")
        settings = router.resolve("mine", LOCAL).settings
        assert (settings.created_s, settings.context_length) == (86_400, 2048)
        with pytest.raises(ModelNotFound):
            router.resolve("old", LOCAL)
        # What was asked before goes on, to the Triton that serves the new one.
        assert router.target(under_way, LOCAL, "r", 1).replicas[0].name == "local"
        ServedModel("old").write(path)
        await until(router, "old")


async def test_a_file_that_is_none_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "served.json"
    path.write_text('{"nome": "mine"}')
    async with following(path) as router:
        await asyncio.sleep(0.1)
        assert called(router) == ["old"]
        (record,) = caplog.records  # once, not each time
        assert "nome" in vars(record)["error"]
        ServedModel("mine").write(path)
        await until(router, "mine")
