"""Recipes are checked, and each fault is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from build.build_errors import RecipeError
from build.recipe import RECIPES, OnnxTarget, load_recipe, make_recipe


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def test_a_recipe_has_defaults_for_all_but_name_and_checkpoint(tmp_path):
    recipe = load_recipe(write(tmp_path, "name: a\ncheckpoint: model"))
    assert recipe.checkpoint == tmp_path / "model"
    assert (recipe.target.weights, recipe.target.activations) == ("fp32", "fp32")
    assert recipe.quality.suite == "general"


@pytest.mark.parametrize(
    ("target", "provider", "activations", "kv_cache"),
    [
        ("weights: int8", "cpu", "int8", "int8"),
        ("weights: fp16", "cuda", "fp16", "fp16"),
        ("weights: fp8", "cuda", "fp16", "fp16"),
        ("weights: int4", "cpu", "int8", "int8"),
        ("weights: int4, execution_provider: cuda", "cuda", "fp16", "fp16"),
    ],
)
def test_what_is_not_said_follows_from_the_weights(
    tmp_path, target, provider, activations, kv_cache
):
    found = load_recipe(write(tmp_path, f"name: a\ncheckpoint: m\ntarget: {{{target}}}")).target
    assert isinstance(found, OnnxTarget)
    assert found.execution_provider == provider
    assert (found.activations, found.kv_cache) == (activations, kv_cache)


def test_paths_are_relative_to_the_recipe(tmp_path):
    text = "name: a\ncheckpoint: ../model\nquality: {suite: questions.jsonl}"
    recipe = load_recipe(write(tmp_path, text))
    assert recipe.checkpoint == tmp_path.parent / "model"
    assert recipe.quality.suite == tmp_path / "questions.jsonl"


def test_settings_can_be_replaced_one_by_one(tmp_path):
    path = write(tmp_path, "name: a\ncheckpoint: m\nlimits: {memory_gib: 4, context_length: 64}")
    recipe = load_recipe(path, {"limits": {"context_length": 32}, "target": {"weights": "int4"}})
    assert recipe.limits.context_length == 32
    assert recipe.limits.memory_gib == 4
    assert recipe.target.activations == "int8"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a", "checkpoint is missing"),
        ("checkpoint: m", "name is missing"),
        ("name: A/b\ncheckpoint: m", "name is 'A/b'"),
        ("name: a\ncheckpoint: m\ntaget: {}", "taget is not a setting; the nearest is target"),
        (
            "name: a\ncheckpoint: m\ntarget: {wieghts: int8}",
            "target.wieghts is not a setting; the nearest is weights",
        ),
        ("name: a\ncheckpoint: m\ntarget: {weights: int5}", "target.weights is 'int5'"),
        (
            "name: a\ncheckpoint: m\ntarget: {weights: int8, activations: fp32}",
            "int8 weights compute with int8 activations, not fp32",
        ),
        (
            "name: a\ncheckpoint: m\ntarget: {weights: int8, int4_method: gptq}",
            "int4_method is gptq, but the weights are in int8",
        ),
        (
            "name: a\ncheckpoint: m\ntarget: {weights: int4, int4_method: gptq}",
            "target.int4_method is gptq, which needs calibration.text",
        ),
        ("name: a\ncheckpoint: m\ntarget: {kv_cache: int3}", "target.kv_cache is 'int3'"),
        (
            "name: a\ncheckpoint: m\ntarget: {weights: fp16, execution_provider: cpu}",
            "fp16 weights are not for cpu: take fp32 or int8 or int8_block or int4",
        ),
        (
            "name: a\ncheckpoint: m\ntarget: {weights: fp16, kv_cache: int8}",
            "a kv_cache of int8 is not for cuda",
        ),
        ("name: a\ncheckpoint: m\ntarget: {weights: [int8]}", "target.weights is ['int8']"),
        ("name: a\ncheckpoint: m\ntarget: {engine: [a]}", "target.engine is ['a']"),
        (
            "name: a\ncheckpoint: m\nlimits: {context_length: 0}",
            "limits.context_length is 0: input should be greater than or equal to 1",
        ),
        (
            "name: a\ncheckpoint: m\nquality: {bounds: {min_agreement: 95}}",
            "quality.bounds.min_agreement is 95",
        ),
        (
            "name: a\ncheckpoint: m\nlicence: {override: {licence: MIT, reason: why}}",
            "licence.override.reason is 'why': string should have at least 10 characters",
        ),
        (
            "name: a\ncheckpoint: m\nlicence: {override: {license: MIT}}",
            "licence.override.license is not a setting; the nearest is licence",
        ),
        ("name: [", "is not YAML"),
        ("- name", "is not a recipe"),
        ("", "is not a recipe"),
    ],
)
def test_faults_are_named(tmp_path, text, message):
    with pytest.raises(RecipeError) as refused:
        load_recipe(write(tmp_path, text))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_all_faults_are_named_at_once(tmp_path):
    with pytest.raises(RecipeError, match=r"checkpoint is missing; .*nam is not a setting"):
        make_recipe({"name": "a", "nam": "b"}, "here")


def test_a_recipe_that_is_not_there_names_the_ready_ones():
    with pytest.raises(RecipeError, match=r"cannot be read: .*ready ones: .*demo"):
        load_recipe(Path("nowhere"))


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_ready_recipes_are_valid_and_named_as_their_file(path):
    assert load_recipe(path).name == path.stem
    assert load_recipe(Path(path.stem)) == load_recipe(path)
    assert path.read_text().startswith("# "), "a recipe says what it is for"
    assert yaml.safe_load(path.read_text())["licence"] if not path.stem.startswith("demo") else True
