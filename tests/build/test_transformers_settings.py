"""Every setting of ``config.json``, absent, at its default and varied, against transformers.

The usual run has the cases in which a family could be read wrong; ``-m sweep`` (``make sweep``)
adds every setting of every family in both styles.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from build.build_errors import CheckpointError
from build.engine_folder import build_engine
from build.families import FAMILIES
from python_backend.engine.onnx_engine import OnnxEngine
from python_backend.engine.sequence import SamplingParams, Sequence
from tests.build.faithful import (
    ABSENT,
    ARCHITECTURES,
    CONTEXT,
    DECODED,
    LONG,
    OF_FAMILY,
    ORIGINAL,
    SHORT,
    WINDOW,
    Case,
    actual,
    compare,
    engine_of,
    expected,
    tokens,
    write,
)

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.torch

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": ORIGINAL,
}
YARN = {"rope_type": "yarn", "factor": 3.0, "original_max_position_embeddings": ORIGINAL}
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.05, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6],
    "long_factor": [1.0, 1.5, 2.0, 4.0, 8.0, 16.0, 17.0, 18.0],
}
SU = {**LONGROPE, "rope_type": "su"}
PARTIAL = {
    **LONGROPE,
    "partial_rotary_factor": 0.75,
    "short_factor": LONGROPE["short_factor"][:6],
    "long_factor": LONGROPE["long_factor"][:6],
}
ROPES: tuple[dict[str, Any], ...] = (
    {"rope_theta": 500.0},
    {"rope_type": "linear", "factor": 4.0},
    {"rope_type": "dynamic", "factor": 4.0},
    LLAMA3,
    YARN,
    {**YARN, "attention_factor": 0.7, "beta_fast": 16.0, "beta_slow": 2.0, "rope_theta": 700.0},
    {**YARN, "mscale": 0.7, "mscale_all_dim": 1.3, "truncate": False},
    {**LONGROPE, "original_max_position_embeddings": ORIGINAL},
    {**LONGROPE, "original_max_position_embeddings": ORIGINAL, "attention_factor": 1.2},
    {**LONGROPE, "original_max_position_embeddings": ORIGINAL, "factor": 7.0},
)
FOREIGN: dict[str, Any] = {
    "sliding_window": WINDOW,
    "use_sliding_window": True,
    "max_window_layers": 1,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "no_rope_layers": [0, 1, 0],
    "no_rope_layer_interval": 2,
    "query_pre_attn_scalar": 9,
    "attn_logit_softcapping": 0.5,
    "final_logit_softcapping": 0.5,
    "hidden_act": "relu",
    "hidden_activation": "relu",
    "attention_bias": True,
    "mlp_bias": True,
    "use_bidirectional_attention": True,
    "partial_rotary_factor": 0.5,
    "attention_multiplier": 0.1,
    "embedding_multiplier": 3.0,
    "logits_scaling": 4.0,
}
"""Settings that change another family's model."""


def foreign(family: str) -> dict[str, Any]:
    """Those that mean nothing to a family."""
    table = FAMILIES[ARCHITECTURES[family]]
    only = {name: value for name, value in FOREIGN.items() if table.role(name) == "foreign"}
    if not table.turns_partly:
        only["partial_rotary_factor"] = FOREIGN["partial_rotary_factor"]
    return only


def usual() -> list[Case]:
    """What was read wrong once, or is easily."""
    cases = [Case(family, 4, {}, {}) for family in OF_FAMILY]
    cases += [Case(family, 5, foreign(family), {}) for family in OF_FAMILY]
    cases += [
        Case("llama", 5, {"tie_word_embeddings": ABSENT, "rms_norm_eps": ABSENT}, LLAMA3),
        Case("llama", 4, {"num_key_value_heads": ABSENT}, YARN),
        Case("llama", 4, {"original_max_position_embeddings": ORIGINAL}, {**YARN, "factor": 2.0}),
        Case("llama", 4, {"rope_parameters": {"rope_type": "default", "rope_theta": 3.0}}, LLAMA3),
        Case("mistral", 5, {"sliding_window": None}, {"rope_type": "linear", "factor": 4.0}),
        Case("mistral", 4, {"head_dim": 32, "layer_types": FOREIGN["layer_types"]}, {}),
        Case("qwen2", 4, {"use_sliding_window": True}, {"rope_type": "dynamic", "factor": 4.0}),
        Case("qwen2", 4, {"use_sliding_window": True, "max_window_layers": ABSENT}, {}),
        Case("qwen2", 4, {"use_sliding_window": True, "max_window_layers": 0}, {}),
        Case("qwen3", 5, {"use_sliding_window": True, "head_dim": ABSENT}, {}),
        Case("phi3", 4, {"sliding_window": WINDOW}, {**SU, "original_max_position_embeddings": 9}),
        Case("phi3", 5, {}, {**PARTIAL, "original_max_position_embeddings": 7}),
        Case("phi3", 4, {"original_max_position_embeddings": ABSENT}, LONGROPE),
        Case("gemma2", 4, {"query_pre_attn_scalar": ABSENT, "hidden_activation": ABSENT}, {}),
        Case("gemma2", 5, {"attn_logit_softcapping": ABSENT, "final_logit_softcapping": None}, {}),
        Case("smollm3", 4, {"rope_theta": ABSENT, "no_rope_layer_interval": ABSENT}, {}),
        Case("smollm3", 5, {"use_sliding_window": True, "no_rope_layers": [1, 0, 0, 0]}, {}),
        Case("smollm3", 4, {"layer_types": ["sliding_attention"] + ["full_attention"] * 2}, {}),
    ]
    return cases


def ropes(family: str) -> list[dict[str, Any]]:
    """Every kind of scaling that a family knows."""
    known = FAMILIES[ARCHITECTURES[family]].rope_types
    heads = 1 if OF_FAMILY[family].get("head_dim", 16) == 16 else 2
    found = []
    for rope in ROPES:
        if known.get(rope.get("rope_type", "default")) == rope.get("rope_type", "default"):
            lists = ("short_factor", "long_factor")
            wide = {name: rope[name] * heads for name in lists if name in rope}
            found.append({**rope, **wide})
    return found


VARIED: dict[str, tuple[Any, ...]] = {
    "intermediate_size": (64,),
    "num_hidden_layers": (1, 5),
    "num_attention_heads": (2,),
    "num_key_value_heads": (1, 4),
    "head_dim": (16, 32),
    "hidden_act": ("swish", "gelu_new", "gelu_fast", "gelu_pytorch_tanh"),
    "hidden_activation": ("silu", "gelu_new"),
    "rms_norm_eps": (1e-2,),
    "tie_word_embeddings": (False,),
    "sliding_window": (WINDOW, 1, LONG + DECODED, CONTEXT),
    "use_sliding_window": (True,),
    "max_window_layers": (0, 2, 3),
    "layer_types": (
        ["full_attention"] * 3,
        ["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "no_rope_layers": ([0, 0, 1], [1, 1, 1]),
    "no_rope_layer_interval": (1, 3, 7),
    "query_pre_attn_scalar": (9, 256),
    "attn_logit_softcapping": (0.5, None),
    "final_logit_softcapping": (0.5, None),
    "original_max_position_embeddings": (50,),
    "eos_token_id": ([3, 2],),
    "max_position_embeddings": (150,),
}
"""Each setting's other values; layers count three where a value lists them."""

LARGE = ("hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size")
"""Whose defaults make a model of other sizes than the rest of its settings."""


def every() -> list[Case]:
    """Each setting absent and varied, in both styles; each rotary scaling."""
    cases = []
    for family in OF_FAMILY:
        table = FAMILIES[ARCHITECTURES[family]].table
        for style in (4, 5):
            for name in table:
                values = list(VARIED.get(name, ()))
                kept = (*LARGE, "max_position_embeddings", "rope_parameters")
                if name not in kept:
                    values.append(ABSENT)
                for value in values:
                    more: dict[str, Any] = {}
                    if name in ("sliding_window", "max_window_layers", "layer_types"):
                        more = {"use_sliding_window": True} if "use_sliding_window" in table else {}
                    if name == "layer_types" and family == "mistral":
                        more = {"head_dim": 32}  # which transformers' Ministral has to be told
                    if name == "num_hidden_layers" and family in ("qwen2", "qwen3"):
                        more = {"use_sliding_window": True}
                    if name == "num_key_value_heads" and value is ABSENT:
                        heads = table[name].default or 4
                        more = {"num_attention_heads": heads, "hidden_size": 16 * heads}
                    cases.append(Case(family, style, {**more, name: value}, {}))
            cases += [Case(family, style, {}, rope) for rope in ropes(family)]
            cases += [
                Case(family, style, {name: value}, {}) for name, value in foreign(family).items()
            ]
    cases += [
        Case("qwen2", 4, {"num_hidden_layers": 30, **changes}, {})
        for changes in (
            {"use_sliding_window": True, "max_window_layers": ABSENT},
            {"use_sliding_window": ABSENT},
        )
    ]
    cases += [Case("phi3", style, {}, PARTIAL) for style in (4, 5)]
    cases += [Case("phi3", style, {}, {"partial_rotary_factor": 0.5}) for style in (4, 5)]
    return cases


@pytest.mark.parametrize("case", usual(), ids=str)
def test_what_is_computed_is_what_transformers_computes(tmp_path, case):
    compare(tmp_path / "checkpoint", case)


@pytest.mark.sweep
@pytest.mark.parametrize("case", every(), ids=str)
def test_every_setting_absent_and_varied(tmp_path, case):
    compare(tmp_path / "checkpoint", case)


def config_class(family: str) -> Any:
    """The class that transformers has for a family's config."""
    return type(transformers.AutoConfig.for_model(family))


@pytest.mark.parametrize("family", OF_FAMILY)
def test_every_setting_of_transformers_has_a_place_and_its_default(family):
    table, known = FAMILIES[ARCHITECTURES[family]], config_class(family)
    defaults = {each.name: each.default for each in dataclasses.fields(known)}
    assert [name for name in defaults if table.role(name) == "foreign"] == []
    defaults["rope_theta"] = known.default_theta
    for name, field in table.table.items():
        if name in defaults:
            assert field.default == defaults[name], name
        else:
            # Without a place in the class; what it does with them is tried in cases.
            assert field.default is None, name
            assert name in BESIDE_THE_CLASS, name


BESIDE_THE_CLASS = (
    "head_dim",
    "layer_types",
    "original_max_position_embeddings",
    "partial_rotary_factor",
    "rope_scaling",
)


@pytest.mark.parametrize("style", [4, 5])
@pytest.mark.parametrize("stored", ["equal", "other", "alone"])
def test_tied_tables_that_are_both_stored(tmp_path, style, stored):
    folder = tmp_path / "checkpoint"
    write(folder, Case("llama", style, {}, {}))
    tensors = load_file(folder / "model.safetensors")
    table = tensors["model.embed_tokens.weight"]
    other = table if stored == "equal" else np.ascontiguousarray(table[::-1])
    tensors["lm_head.weight"] = other.copy()
    if stored == "alone":
        del tensors["model.embed_tokens.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    ids = tokens(SHORT + DECODED)
    ours = actual(engine_of(folder), ids, 0)
    np.testing.assert_allclose(ours, expected(model.eval(), ids), atol=1e-3, rtol=0)


@pytest.mark.parametrize("context_length", [ORIGINAL, None])
@pytest.mark.parametrize("family", ["phi3", "llama"])
def test_longrope_up_to_the_original_context(tmp_path, family, context_length):
    rope = {**LONGROPE, "original_max_position_embeddings": ORIGINAL}
    case = Case(family, 4, {}, rope, context_length=context_length)
    more = (ORIGINAL - DECODED + 1,) if context_length is None else ()
    compare(tmp_path / "checkpoint", case, (SHORT, ORIGINAL - DECODED, *more))


def test_longrope_as_transformers_generates(tmp_path):
    """Through the engine that serves; transformers chooses the factors anew at each token."""
    rope = {**LONGROPE, "original_max_position_embeddings": ORIGINAL}
    model = write(tmp_path / "checkpoint", Case("phi3", 4, {}, rope))
    model.generation_config.eos_token_id = None
    build_engine(tmp_path / "checkpoint", tmp_path / "engine", "fp32")
    asked = [(SHORT, DECODED), (ORIGINAL - DECODED, DECODED), (ORIGINAL + 1, DECODED), (LONG, 60)]
    sequences = [
        Sequence(np.array(tokens(prompt), np.int32), SamplingParams(max_tokens=most))
        for prompt, most in asked
    ]
    engine = OnnxEngine(tmp_path / "engine", num_threads=1, kv_cache_bytes=1 << 22)
    for sequence in sequences:
        engine.add(sequence)
    while engine.has_work:
        engine.step()
    for (prompt, most), sequence in zip(asked, sequences, strict=True):
        ids = torch.tensor([tokens(prompt)])
        wanted = model.generate(ids, do_sample=False, max_new_tokens=most)
        assert sequence.output == wanted[0, prompt:].tolist()


@pytest.mark.sweep
def test_the_window_that_mistral_has_where_it_says_nothing(tmp_path):
    changes = {"sliding_window": ABSENT, "max_position_embeddings": 8192, "num_hidden_layers": 1}
    compare(tmp_path / "checkpoint", Case("mistral", 4, changes, {}), (4200,))


def nothings() -> list[Case]:
    """Every setting that is there and says nothing."""
    return [
        Case(family, 4, {name: None}, {})
        for family in OF_FAMILY
        for name in FAMILIES[ARCHITECTURES[family]].table
    ]


@pytest.mark.sweep
@pytest.mark.parametrize("case", nothings(), ids=str)
def test_a_setting_that_says_nothing_is_transformers_nothing_or_refused(tmp_path, case):
    folder = tmp_path / "checkpoint"
    try:
        model = write(folder, case)
    except Exception:
        pytest.skip("transformers makes no model of it")
    try:
        engine = engine_of(folder)
    except CheckpointError:
        return
    ids = tokens(LONG + DECODED)
    np.testing.assert_allclose(actual(engine, ids, 0), expected(model, ids), atol=1e-3, rtol=0)
