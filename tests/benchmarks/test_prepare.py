"""Environments and models."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.peers import prepare
from benchmarks.peers.prepare import (
    PrepareError,
    Workshop,
    environment_file,
    worker_environment,
    worker_file,
)
from benchmarks.peers.systems import BY_NAME, SYSTEMS, Environment

ENVIRONMENTS = {
    system.environment.name: system.environment for system in SYSTEMS if system.environment
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_torch_is_chosen_where_torch_is(name: str) -> None:
    environment = ENVIRONMENTS[name]
    lines = environment_file(environment).read_text().splitlines()
    assert environment.has_torch == any(line.startswith("torch==") for line in lines)


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
def test_every_system_has_a_worker_program(system) -> None:
    assert worker_file(system).is_file()


def test_a_model_is_built_by_the_worker_once_for_its_builder(tmp_path, monkeypatch) -> None:
    arguments = ["-m", "tests.benchmarks.fake_worker"]
    monkeypatch.setattr(
        prepare,
        "worker_arguments",
        lambda system, command, model: [*arguments, command, "--model", str(model)],
    )
    workshop = Workshop(tmp_path)
    model = workshop.model(BY_NAME["trireme-int8"], tmp_path / "checkpoint")
    assert (model / "model.txt").read_text().startswith("checkpoint ")
    (model / "model.txt").unlink()
    workshop.model(BY_NAME["trireme-int8"], tmp_path / "checkpoint")
    assert not (model / "model.txt").exists()
    monkeypatch.setattr(prepare, "_digest", lambda files: f"of {len(files)} that changed")
    workshop.model(BY_NAME["trireme-int8"], tmp_path / "checkpoint")
    assert (model / "model.txt").is_file()
    assert workshop.model(BY_NAME["trireme-int8"], tmp_path / "checkpoint", "others") != model


def test_a_build_that_fails_says_why(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(prepare, "worker_arguments", lambda *_: ["-c", "raise OSError('full')"])
    with pytest.raises(PrepareError, match="OSError: full"):
        Workshop(tmp_path).model(BY_NAME["trireme-int8"], tmp_path)


def test_a_changed_environment_is_another_one() -> None:
    environment = Environment("llama-cpp", variables={"CMAKE_ARGS": "-DGGML_NATIVE=ON"})
    assert repr(environment) != repr(replace(environment, variables={}))


def test_a_worker_gets_no_packages_from_outside(monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("PYTHONHOME", "/elsewhere")
    assert not {name for name in worker_environment() if name.startswith("PYTHON")}
    assert worker_environment()["HF_HUB_OFFLINE"] == "1"
