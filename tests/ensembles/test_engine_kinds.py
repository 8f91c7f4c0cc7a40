"""The kinds of engines: one for each name, whatever asks by that name."""

from __future__ import annotations

from typing import get_args

import pytest

from contract.models import STEP_MODELS
from contract.names import Engine
from ensembles.engine_kinds import ENGINE_KINDS, kind_of
from ensembles.repository import SOURCE, model_configs
from ensembles.repository_settings import RepositorySettings

NAMES = get_args(RepositorySettings.model_fields["engine"].annotation)


def test_there_is_a_kind_for_each_name_that_the_settings_know() -> None:
    assert tuple(ENGINE_KINDS) == NAMES
    assert tuple(STEP_MODELS) == get_args(Engine)


@pytest.mark.parametrize("name", NAMES)
def test_each_has_the_settings_of_its_name_and_serves_tensorrt_llm(name: str) -> None:
    settings = RepositorySettings.model_validate({"engine": name})
    assert hasattr(settings, name)
    assert "tensorrt_llm" in model_configs(settings)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_linked_is_here_and_configured(name: str) -> None:
    settings = RepositorySettings.model_validate({"engine": name})
    linked = kind_of(settings).linked
    assert set(linked) <= set(model_configs(settings))
    for model in linked:
        assert (SOURCE / model / "1" / "model.py").exists() or (SOURCE / f"{model}.py").exists()


@pytest.mark.parametrize("name", get_args(Engine))
def test_an_ensembles_second_step_is_its_engines(name: str) -> None:
    settings = RepositorySettings.model_validate({"engine": name})
    ensemble = model_configs(settings)["ensemble"]
    step = ensemble.ensemble_scheduling.step[1].model_name
    assert step == STEP_MODELS[settings.engine].name  # type: ignore[index]
    assert step in kind_of(settings).linked
