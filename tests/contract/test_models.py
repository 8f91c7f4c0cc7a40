"""The contract: it is TensorRT-LLM's, and its three steps fit together."""

from __future__ import annotations

import re
from itertools import chain
from typing import get_args

import pytest

from contract import nvidia
from contract.chat_parameters import ChatInputs
from contract.ensemble import ensemble_steps
from contract.models import (
    ENSEMBLE_MODEL,
    OURS,
    POSTPROCESSING_MODEL,
    PREPROCESSING_MODEL,
    STATISTICS,
    TENSORRT_LLM_ADAPTER_MODEL,
    TENSORRT_LLM_MODEL,
    UNSUPPORTED_INPUTS,
    ensemble_model,
)
from contract.names import Engine
from contract.parameters import OUR_ROWS
from contract.tensors import Model, Tensor, TensorSet
from tests.contract import declared

MODELS = {
    model.name: model
    for model in (
        PREPROCESSING_MODEL,
        TENSORRT_LLM_MODEL,
        TENSORRT_LLM_ADAPTER_MODEL,
        POSTPROCESSING_MODEL,
    )
}
ENGINES = get_args(Engine)
OUR_STATISTICS = {
    "top_log_prob_ids",
    "top_log_probs",
    "num_cached_tokens",
    "num_computed_input_tokens",
    "num_computed_output_tokens",
    "prompt_ids",
    "prompt_log_probs",
    "prompt_top_log_prob_ids",
    "prompt_top_log_probs",
}
PARSED = {"reasoning_output", "tool_calls", "num_reasoning_tokens"}
OF_PROMPT = {"prompt_token_texts", "prompt_top_tokens"}
ANSWER_EXTRAS = {
    "finish_reason",
    "stop_text",
    "safety_verdicts",
    "output_tokens",
    "top_tokens",
    *OF_PROMPT,
    *PARSED,
}
PROMPT_EXTRAS = {
    *(tensor.name for tensor in ChatInputs.all()),
    "prompt_token_ids",
    "embedding_bias_ids",
}
THINKING = {
    *("thinking_token_budget", "thinking_begin_ids", "thinking_end_ids", "thinking_close_ids"),
}
STREAM = {"sequence_id", "stream_context"}
DECOUPLED = {"tensorrt_llm", "tensorrt_llm_adapter", "postprocessing"}


def by_name(tensors: tuple[Tensor, ...]) -> dict[str, Tensor]:
    return {tensor.name: tensor for tensor in tensors}


def test_a_client_of_tensorrt_llm_finds_its_ensemble() -> None:
    inputs, outputs = by_name(ENSEMBLE_MODEL.inputs), by_name(ENSEMBLE_MODEL.outputs)
    added = inputs.keys() - declared.ENSEMBLE.inputs.keys()
    ours = {
        "priority",
        "return_computed_tokens",
        "return_prompt_tokens",
        *(row.name for row in OUR_ROWS),
    }
    assert added == {*ours, *PROMPT_EXTRAS, "include_stop_str_in_output"}
    assert all(inputs.pop(name).optional for name in added)
    assert inputs == declared.ENSEMBLE.inputs
    added = outputs.keys() - declared.ENSEMBLE.outputs.keys()
    assert added == {*ANSWER_EXTRAS, *OUR_STATISTICS}
    assert {name: outputs[name] for name in declared.ENSEMBLE.outputs} == declared.ENSEMBLE.outputs


@pytest.mark.parametrize(
    ("ours", "theirs", "added"),
    [
        (
            TENSORRT_LLM_MODEL.inputs,
            declared.ENGINE.inputs,
            {
                *STREAM,
                "client_gone",
                "liveness_probes",
                "priority",
                "return_computed_tokens",
                "return_prompt_tokens",
                *THINKING,
                *(row.name for row in OUR_ROWS),
            },
        ),
        (
            TENSORRT_LLM_MODEL.outputs,
            declared.ENGINE.outputs,
            {*STREAM, "finish_reason", *OUR_STATISTICS},
        ),
        (
            TENSORRT_LLM_ADAPTER_MODEL.inputs,
            declared.ENGINE.inputs,
            {*STREAM, "client_gone", "liveness_probes"},
        ),
        (
            TENSORRT_LLM_ADAPTER_MODEL.outputs,
            declared.ENGINE.outputs,
            {*STREAM, "finish_reason"},
        ),
        (
            PREPROCESSING_MODEL.inputs,
            declared.PREPROCESSING.inputs,
            {
                *(name.upper() for name in PROMPT_EXTRAS),
                "MIN_TOKENS",
                "STREAM",
                "EXCLUDE_INPUT_IN_OUTPUT",
                "INCLUDE_STOP_STR_IN_OUTPUT",
                "GUIDED_DECODING_GUIDE_TYPE",
                "GUIDED_DECODING_GUIDE",
            },
        ),
        (
            PREPROCESSING_MODEL.outputs,
            declared.PREPROCESSING.outputs,
            {
                *("LIVENESS_PROBES", "STREAMING", "STREAM_CONTEXT", "GUIDE", "GUIDE_TYPE"),
                "THINKING_BUDGET",
                *(name.upper() for name in THINKING if name.endswith("ids")),
            },
        ),
        (
            POSTPROCESSING_MODEL.inputs,
            declared.POSTPROCESSING.inputs,
            {*STATISTICS, *STREAM, "finish_reason"},
        ),
        (
            POSTPROCESSING_MODEL.outputs,
            declared.POSTPROCESSING.outputs,
            {*STATISTICS, *ANSWER_EXTRAS},
        ),
    ],
)
def test_what_a_model_shares_with_upstreams_is_the_same(
    ours: tuple[Tensor, ...], theirs: dict[str, Tensor], added: set[str]
) -> None:
    known = by_name(ours)
    assert known.keys() - theirs.keys() == added
    shared = known.keys() & theirs.keys()
    assert {name: known[name] for name in shared} == {name: theirs[name] for name in shared}


@pytest.mark.parametrize("model", MODELS.values())
def test_what_a_model_takes_more_than_upstreams_may_be_left_out(model: Model) -> None:
    theirs = declared.ENGINE.inputs | declared.PREPROCESSING.inputs | declared.POSTPROCESSING.inputs
    assert all(tensor.optional for tensor in model.inputs if tensor.name not in theirs)


def test_every_engine_output_of_upstream_but_one_is_declared() -> None:
    names = set(TENSORRT_LLM_MODEL.output_names())
    # For prefill and decoding on machines of their own, which the ensemble has no part in.
    assert declared.ENGINE.outputs.keys() - names == {"context_phase_params"}


@pytest.mark.parametrize("engine", ENGINES)
def test_the_ensembles_inputs_reach_what_they_reach_upstream(engine: Engine) -> None:
    preprocessing, generation, postprocessing = (
        {
            name: source
            for name, source in step.input_map.items()
            if source in declared.ENSEMBLE.inputs
        }
        for step in ensemble_steps(engine)
    )
    # Preprocessing says whether the engine streams: also where a stop text may end a whole answer;
    # and how many tokens no stop text ends. What a text keeps to it changes where calls or thinking
    # may go before it.
    guides = {
        "guided_decoding_guide_type": ("GUIDED_DECODING_GUIDE_TYPE", "_GUIDE_TYPE"),
        "guided_decoding_guide": ("GUIDED_DECODING_GUIDE", "_GUIDE"),
    }
    moved = {
        "MIN_TOKENS": "min_tokens",
        "STREAM": "stream",
        "EXCLUDE_INPUT_IN_OUTPUT": "exclude_input_in_output",
        **{into: source for source, (into, _) in guides.items()},
    }
    assert preprocessing == declared.ENSEMBLE.steps["preprocessing"] | moved
    from_client = {
        name: source
        for name, source in declared.ENSEMBLE.steps["tensorrt_llm"].items()
        if source in declared.ENSEMBLE.inputs
    }
    assert generation | {"streaming": "stream", **{name: name for name in guides}} == from_client
    mapped = ensemble_steps(engine)[1].input_map
    assert mapped["streaming"] == "_STREAMING"
    assert {name: mapped[name] for name in guides} == {
        name: internal for name, (_, internal) in guides.items()
    }
    assert postprocessing == {}


@pytest.mark.parametrize("engine", ENGINES)
def test_every_ensemble_input_is_used(engine: Engine) -> None:
    used = chain.from_iterable(step.input_map.values() for step in ensemble_steps(engine))
    assert set(ensemble_model(engine).input_names()) <= set(used)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_step_takes_what_the_ensemble_or_an_earlier_step_gives(engine: Engine) -> None:
    known = set(ensemble_model(engine).input_names())
    for step in ensemble_steps(engine):
        assert set(step.input_map.values()) <= known
        known |= set(step.output_map.values())
    assert set(ensemble_model(engine).output_names()) <= known


@pytest.mark.parametrize("engine", ENGINES)
def test_a_step_maps_tensors_that_its_model_has_of_the_same_type(engine: Engine) -> None:
    types = {tensor.name: tensor.data_type for tensor in ENSEMBLE_MODEL.inputs}
    for step in ensemble_steps(engine):
        model = MODELS[step.model]
        inputs, outputs = by_name(model.inputs), by_name(model.outputs)
        for name, source in step.input_map.items():
            assert inputs[name].data_type == types[source]
        for name, target in step.output_map.items():
            types[target] = outputs[name].data_type
    for tensor in ensemble_model(engine).outputs:
        assert types[tensor.name] == tensor.data_type


@pytest.mark.parametrize("engine", ENGINES)
def test_a_step_is_given_every_input_that_it_needs(engine: Engine) -> None:
    for step in ensemble_steps(engine):
        needed = {tensor.name for tensor in MODELS[step.model].inputs if not tensor.optional}
        assert needed <= step.input_map.keys()


@pytest.mark.parametrize("engine", ENGINES)
def test_each_tensor_has_one_source(engine: Engine) -> None:
    sources = [*ENSEMBLE_MODEL.input_names()]
    for step in ensemble_steps(engine):
        sources += step.output_map.values()
    assert len(sources) == len(set(sources))


@pytest.mark.parametrize("engine", ENGINES)
def test_triton_sees_one_decoupled_model_before_each_step_and_each_output(engine: Engine) -> None:
    # Triton refuses a step, or an ensemble, that takes tensors from behind a decoupled model and
    # others from before it.
    behind: dict[str, str | None] = dict.fromkeys(ENSEMBLE_MODEL.input_names())
    for step in ensemble_steps(engine):
        before = {behind[source] for source in step.input_map.values()}
        assert len(before) == 1
        decoupled = step.model if step.model in DECOUPLED else before.pop()
        behind |= dict.fromkeys(step.output_map.values(), decoupled)
    outputs = ensemble_model(engine).output_names()
    assert {behind[name] for name in outputs} == {"postprocessing"}


def test_tensorrt_llms_own_engine_is_asked_for_nothing_of_ours() -> None:
    model = TENSORRT_LLM_ADAPTER_MODEL
    assert set(model.input_names()) - OURS <= declared.ENGINE.inputs.keys()
    assert set(model.output_names()) - OURS <= declared.ENGINE.outputs.keys()


def test_our_engine_is_given_all_that_the_steps_before_it_know() -> None:
    mapped = ensemble_steps("onnx")[1].input_map
    # Those that say which sequences end come from postprocessing, by another way.
    ending = {"stop", "sequence_id", "client_gone"}
    by_the_ensemble = set(declared.ENSEMBLE.steps["tensorrt_llm"])
    for_programs = {*declared.ENGINE.inputs} - by_the_ensemble - {"stop"}
    of_encoders = {"decoder_input_ids", "decoder_input_lengths", "prompt_table_extra_ids"}
    unmapped = set(TENSORRT_LLM_MODEL.input_names()) - mapped.keys()
    assert unmapped == ending | for_programs | of_encoders


@pytest.mark.parametrize("model", [*MODELS.values(), ENSEMBLE_MODEL])
def test_a_model_names_each_tensor_once(model: Model) -> None:
    assert len(model.input_names()) == len(set(model.input_names()))
    assert len(model.output_names()) == len(set(model.output_names()))


def test_what_the_engine_refuses_is_declared_and_optional() -> None:
    inputs = by_name(TENSORRT_LLM_MODEL.inputs)
    assert all(inputs[tensor.name].optional for tensor in UNSUPPORTED_INPUTS)


def test_each_declaration_says_where_it_is_from() -> None:
    for each in (
        declared.ENSEMBLE,
        declared.ENGINE,
        declared.PREPROCESSING,
        declared.POSTPROCESSING,
        declared.BLS,
    ):
        for source in each.source:
            assert re.fullmatch("[0-9a-f]{40}", source["commit"])
            assert source["path"].endswith("/config.pbtxt")


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (nvidia.EnsembleInputs, declared.ENSEMBLE.inputs),
        (nvidia.EnsembleOutputs, declared.ENSEMBLE.outputs),
        (nvidia.EngineInputs, declared.ENGINE.inputs),
        (nvidia.CppBackendOutputs, declared.ENGINE.outputs),
        (nvidia.PreprocessingInputs, declared.PREPROCESSING.inputs),
        (nvidia.PreprocessingOutputs, declared.PREPROCESSING.outputs),
        (nvidia.PostprocessingInputs, declared.POSTPROCESSING.inputs),
        (nvidia.PostprocessingOutputs, declared.POSTPROCESSING.outputs),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_what_is_nvidias_is_as_nvidia_declares_it(
    ours: type[TensorSet], theirs: dict[str, Tensor]
) -> None:
    assert by_name(ours.all()).items() <= theirs.items()


def test_of_nvidias_tensors_only_those_of_images_and_encoders_are_left_out() -> None:
    def left_out(ours: type[TensorSet], theirs: dict[str, Tensor]) -> set[str]:
        return theirs.keys() - by_name(ours.all()).keys()

    assert left_out(nvidia.EnsembleInputs, declared.ENSEMBLE.inputs) == set()
    assert left_out(nvidia.EnsembleOutputs, declared.ENSEMBLE.outputs) == set()
    assert left_out(nvidia.EngineInputs, declared.ENGINE.inputs) == set()
    assert left_out(nvidia.CppBackendOutputs, declared.ENGINE.outputs) == set()
    assert left_out(nvidia.PreprocessingInputs, declared.PREPROCESSING.inputs) == {
        "IMAGE_BYTES",
        "IMAGE_URL",
        "VIDEO_BYTES",
        *({"IMAGES", "IMAGE_SIZES"} & declared.PREPROCESSING.inputs.keys()),
    }
    # What NVIDIA's text programs read is there: what else it declares is for images.
    to_engine = set(declared.ENSEMBLE.steps["tensorrt_llm"].values())
    of_text = {
        name
        for name in declared.PREPROCESSING.outputs
        if f"_{name}" in to_engine and name != "OUT_PROMPT_TABLE_EXTRA_IDS"
    }
    assert of_text <= by_name(nvidia.PreprocessingOutputs.all()).keys()


def test_the_ensemble_takes_all_that_nvidias_scripted_model_takes_of_text() -> None:
    names = set(ENSEMBLE_MODEL.input_names())
    images = {name for name in declared.BLS.inputs if name.startswith(("image_", "video_"))}
    drafts = {"num_draft_tokens", "use_draft_logits"}  # of a second engine, which it calls itself
    assert declared.BLS.inputs.keys() - names == images | drafts
