"""What each family reads of a config: every known setting has a place, every default is there."""

from __future__ import annotations

import dataclasses

import pytest

from build.families import ARCHITECTURES, FAMILIES
from build.family import NEUTRAL, Settings
from tests.build.faithful import OF_FAMILY, Case

KNOWN = frozenset(
    {name for family in FAMILIES.values() for name in (*family.table, *family.refused)} | NEUTRAL
)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_setting_has_one_place(architecture):
    family = FAMILIES[architecture]
    assert set(family.table) <= {each.name for each in dataclasses.fields(Settings)}
    assert not set(family.table) & NEUTRAL
    assert not set(family.refused) & (NEUTRAL | set(family.table))
    roles = {name: family.role(name) for name in KNOWN}
    others = {name for name, role in roles.items() if role == "foreign"}
    # What is foreign is another family's own, and nothing else is.
    assert others <= {
        name
        for other in FAMILIES.values()
        if other is not family
        for name in (*other.table, *other.refused)
    }


@pytest.mark.parametrize("model_type", OF_FAMILY)
@pytest.mark.parametrize("style", [4, 5])
def test_what_a_checkpoint_of_a_family_usually_has_is_not_foreign_to_it(model_type, style):
    config = Case(model_type, style, {}, {}).config()
    family = FAMILIES[config["architectures"][0]]
    assert [name for name in config if family.role(name) == "foreign"] in ([], ["hidden_act"])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_setting_can_be_left_out(architecture):
    family = FAMILIES[architecture]
    settings = family.read({})
    assert settings == family.read(family.completed({}))
    assert settings.num_kv_heads > 0
    assert settings.head_width >= 64


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("setting", ["quantization_config", "per_layer_config"])
def test_a_refused_setting_may_say_nothing(architecture, setting):
    FAMILIES[architecture].read({setting: None})


@pytest.mark.parametrize("version", ["4.57.1", "5.20.2", "5.21.0.dev0", None])
def test_a_foreign_setting_of_a_transformers_that_is_not_known_is_not_passed_over(version):
    family, config = FAMILIES["LlamaForCausalLM"], {"transformers_version": version}
    assert family.foreign({**config, "sliding_window": None, "use_sliding_window": False}) == ()
    if version == "5.21.0.dev0":
        with pytest.raises(Exception, match=r"5\.21\.0\.dev0 and says sliding_window = 4"):
            family.foreign({**config, "sliding_window": 4})
    else:
        assert family.foreign({**config, "sliding_window": 4}) == ("sliding_window",)
