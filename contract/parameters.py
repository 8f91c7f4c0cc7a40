"""All that a request may say of how its text is generated, in one table.

Each field of `GenerationParameters` is a row. From it follow the options of the Python client, the
fields of the gateway's requests, what an upstream is asked, the tensors that are ours, and what the
engine reads and within which bounds. Another parameter is another row here, its line in
`ParameterKeywords`, and the code that does something with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from contract.chat_parameters import ChatInputs, ChatKeywords, ChatParameters
from contract.nvidia import EngineInputs, EnsembleInputs
from contract.parameter import Bounds, Parameter, described, rows_of
from contract.tensors import Tensor, Value, optional, scalar

INT32_MAX = 2**31 - 1

NO_END = -1
"""The `end_id` with which nothing ends a sequence before `max_tokens`."""

MAX_TOP_LOG_PROBS = 20
"""Most likeliest tokens that are reported beside each chosen one."""


class OwnInputs(ChatInputs):
    """What a client may send beside TensorRT-LLM's inputs, where code names the tensor itself."""

    PROMPT_TOKEN_IDS = optional("prompt_token_ids", "INT32", -1)
    EMBEDDING_BIAS_IDS = optional("embedding_bias_ids", "INT32", -1)
    INCLUDE_STOP_STR_IN_OUTPUT = optional("include_stop_str_in_output", "BOOL")
    RETURN_COMPUTED_TOKENS = optional("return_computed_tokens", "BOOL")
    RETURN_PROMPT_TOKENS = optional("return_prompt_tokens", "BOOL")
    PRIORITY = optional("priority", "INT32")


@described
@dataclass(frozen=True, kw_only=True)
class GenerationParameters(ChatParameters):
    """How one request's text is generated: names and meaning are TensorRT-LLM's.

    None and an empty collection are not sent and leave the choice to the server.
    """

    max_tokens: Annotated[
        int,
        Parameter(
            meaning="The most tokens to generate.",
            tensor=EnsembleInputs.MAX_TOKENS,
            engine=EngineInputs.REQUEST_OUTPUT_LEN,
            bounds=Bounds(least=1),
            openai="max_tokens",
        ),
    ] = 128
    fit_max_tokens: Annotated[
        bool | None,
        Parameter(
            meaning="Whether max_tokens is cut to the room that the prompt leaves in the context, "
            "where more would be refused. Not known to TensorRT-LLM's engine.",
            tensor=optional("fit_max_tokens", "BOOL"),
            engine=scalar("fit_max_tokens", "BOOL"),
            default=False,
        ),
    ] = None
    temperature: Annotated[
        float | None,
        Parameter(
            meaning="Above 1 flattens the distribution that tokens are drawn from, below 1 "
            "sharpens it; 0 is greedy.",
            tensor=EnsembleInputs.TEMPERATURE,
            engine=EngineInputs.TEMPERATURE,
            bounds=Bounds(least=0),
            default=1.0,
            openai="temperature",
            asked=Bounds(least=0, most=2),
        ),
    ] = None
    top_p: Annotated[
        float | None,
        Parameter(
            meaning="Draw among the likeliest tokens whose probabilities add up to this.",
            tensor=EnsembleInputs.TOP_P,
            engine=EngineInputs.RUNTIME_TOP_P,
            bounds=Bounds(least=0, most=1),
            default=0.0,
            openai="top_p",
            asked=Bounds(least=0, most=1),
        ),
    ] = None
    top_k: Annotated[
        int | None,
        Parameter(
            meaning="Draw among so many of the likeliest tokens; 1 is greedy.",
            tensor=EnsembleInputs.TOP_K,
            engine=EngineInputs.RUNTIME_TOP_K,
            bounds=Bounds(least=0),
            default=0,
            openai="top_k",
            asked=Bounds(least=0, most=INT32_MAX),
            nothing=0,
        ),
    ] = None
    min_p: Annotated[
        float | None,
        Parameter(
            meaning="Draw among the tokens that are at least so likely as a share of the "
            "likeliest. Not known to TensorRT-LLM's engine.",
            tensor=optional("min_p", "FP32"),
            engine=scalar("min_p", "FP32"),
            bounds=Bounds(least=0, most=1),
            default=0.0,
            openai="min_p",
            asked=Bounds(least=0, most=1),
            nothing=0,
        ),
    ] = None
    stop_words: Annotated[
        Sequence[str],
        Parameter(
            meaning="Texts that end the sequence.",
            tensor=EnsembleInputs.STOP_WORDS,
            openai="stop",
        ),
    ] = ()
    seed: Annotated[
        int | None,
        Parameter(
            meaning="The same seed, prompt and options draw the same tokens.",
            tensor=EnsembleInputs.SEED,
            openai="seed",
            asked=Bounds(least=-(2**63), most=2**63 - 1),
        ),
    ] = None
    presence_penalty: Annotated[
        float | None,
        Parameter(
            meaning="Above 0 makes tokens that were there before less likely, as a difference, "
            "once for a token.",
            tensor=EnsembleInputs.PRESENCE_PENALTY,
            engine=EngineInputs.PRESENCE_PENALTY,
            default=0.0,
            openai="presence_penalty",
            asked=Bounds(least=-2, most=2),
            nothing=0,
        ),
    ] = None
    frequency_penalty: Annotated[
        float | None,
        Parameter(
            meaning="The same as presence_penalty, for each time that the token was there.",
            tensor=EnsembleInputs.FREQUENCY_PENALTY,
            engine=EngineInputs.FREQUENCY_PENALTY,
            default=0.0,
            openai="frequency_penalty",
            asked=Bounds(least=-2, most=2),
            nothing=0,
        ),
    ] = None
    prompt_ignore_length: Annotated[
        int | None,
        Parameter(
            meaning="How many of the prompt's first tokens presence_penalty and frequency_penalty "
            "don't count; more than it has is all. Not known to TensorRT-LLM's ensemble.",
            tensor=optional("prompt_ignore_length", "INT32"),
            engine=scalar("prompt_ignore_length", "INT32"),
            bounds=Bounds(least=0),
            default=0,
        ),
    ] = None
    repetition_penalty: Annotated[
        float | None,
        Parameter(
            meaning="Above 1 makes tokens that were there before, in the prompt too, less likely, "
            "as a factor.",
            tensor=EnsembleInputs.REPETITION_PENALTY,
            engine=EngineInputs.REPETITION_PENALTY,
            bounds=Bounds(above=0),
            default=1.0,
            openai="repetition_penalty",
            asked=Bounds(above=0, most=10),
        ),
    ] = None
    min_tokens: Annotated[
        int | None,
        Parameter(
            meaning="The sequence does not end by itself before so many tokens; a stop text that "
            "is complete within them doesn't end it.",
            tensor=EnsembleInputs.MIN_TOKENS,
            engine=EngineInputs.MIN_TOKENS,  # its bound is max_tokens
            default=0,
            openai="min_tokens",
            asked=Bounds(least=0, most=INT32_MAX),
            nothing=0,
        ),
    ] = None
    end_id: Annotated[
        int | None,
        Parameter(
            meaning="The token that ends a sequence, in place of the checkpoint's; with -1 it "
            "goes on to max_tokens.",
            tensor=EnsembleInputs.END_ID,
            openai="ignore_eos",
        ),
    ] = None
    logit_bias: Annotated[
        Mapping[int, float],
        Parameter(
            meaning="What to add to the logits of tokens, by their ids: above 0 makes a token "
            "likelier.",
            tensor=OwnInputs.EMBEDDING_BIAS_IDS,
            weights=EnsembleInputs.EMBEDDING_BIAS_WEIGHTS,
            openai="logit_bias",
        ),
    ] = field(default_factory=dict)
    embedding_bias: Annotated[
        Mapping[str, float],
        Parameter(
            meaning="The same as logit_bias by texts: for each of a text's tokens.",
            tensor=EnsembleInputs.EMBEDDING_BIAS_WORDS,
            weights=EnsembleInputs.EMBEDDING_BIAS_WEIGHTS,
            openai="logit_bias",
        ),
    ] = field(default_factory=dict)
    bad_words: Annotated[
        Sequence[str],
        Parameter(
            meaning="Texts that are never generated.",
            tensor=EnsembleInputs.BAD_WORDS,
        ),
    ] = ()
    num_return_sequences: Annotated[
        int | None,
        Parameter(
            meaning="How many answers to draw.",
            tensor=EnsembleInputs.NUM_RETURN_SEQUENCES,
            openai="n",
        ),
    ] = None
    return_log_probs: Annotated[
        bool | None,
        Parameter(
            meaning="Report the log probability of each token, and their sum.",
            tensor=EnsembleInputs.RETURN_LOG_PROBS,
            openai="logprobs",
        ),
    ] = None
    num_top_log_probs: Annotated[
        int | None,
        Parameter(
            meaning="Report so many of the likeliest tokens as well, in the place of each token. "
            "Not known to TensorRT-LLM's engine.",
            tensor=optional("num_top_log_probs", "INT32"),
            engine=scalar("num_top_log_probs", "INT32"),
            bounds=Bounds(least=0, most=MAX_TOP_LOG_PROBS),
            default=0,
            openai="top_logprobs",
        ),
    ] = None
    num_prompt_log_probs: Annotated[
        int | None,
        Parameter(
            meaning="Report the log probability of so many of the prompt's last tokens too, with "
            "num_top_log_probs of the likeliest beside each; the first token has none. "
            "max_tokens may be 0 then. Not known to TensorRT-LLM's engine.",
            tensor=optional("num_prompt_log_probs", "INT32"),
            engine=scalar("num_prompt_log_probs", "INT32"),
            bounds=Bounds(least=0),
            default=0,
        ),
    ] = None
    exclude_input_in_output: Annotated[
        bool | None,
        Parameter(
            meaning="Whether the text leaves the prompt out.",
            tensor=EnsembleInputs.EXCLUDE_INPUT_IN_OUTPUT,
        ),
    ] = None
    include_stop_str_in_output: Annotated[
        bool | None,
        Parameter(
            meaning="Whether the stop word that ended the text is part of it; by default it is.",
            tensor=OwnInputs.INCLUDE_STOP_STR_IN_OUTPUT,
        ),
    ] = None
    return_num_input_tokens: Annotated[
        bool | None,
        Parameter(
            meaning="Report the prompt's tokens.",
            tensor=EnsembleInputs.RETURN_NUM_INPUT_TOKENS,
        ),
    ] = None
    return_num_output_tokens: Annotated[
        bool | None,
        Parameter(
            meaning="Report the tokens generated.",
            tensor=EnsembleInputs.RETURN_NUM_OUTPUT_TOKENS,
        ),
    ] = None
    return_computed_tokens: Annotated[
        bool | None,
        Parameter(
            meaning="Report what the engine computed, behind a stop text and for a client that "
            "left too; it may come in a response of its own. Not known to TensorRT-LLM's engine.",
            tensor=OwnInputs.RETURN_COMPUTED_TOKENS,
        ),
    ] = None
    return_prompt_tokens: Annotated[
        bool | None,
        Parameter(
            meaning="Report what the prompt's tokens are, with their texts. Not known to "
            "TensorRT-LLM's engine.",
            tensor=OwnInputs.RETURN_PROMPT_TOKENS,
        ),
    ] = None
    return_perf_metrics: Annotated[
        bool | None,
        Parameter(
            meaning="Report where the engine's time went.",
            tensor=EnsembleInputs.RETURN_PERF_METRICS,
        ),
    ] = None
    prompt_token_ids: Annotated[
        Sequence[int],
        Parameter(
            meaning="The prompt's tokens in place of the prompt, which must be empty then.",
            tensor=OwnInputs.PROMPT_TOKEN_IDS,
        ),
    ] = ()
    guided_decoding_guide_type: Annotated[
        str | None,
        Parameter(
            meaning="What the text keeps to: json (any object), json_schema, regex or "
            "ebnf_grammar.",
            tensor=EnsembleInputs.GUIDED_DECODING_GUIDE_TYPE,
            openai="response_format",
        ),
    ] = None
    guided_decoding_guide: Annotated[
        str | None,
        Parameter(
            meaning="The schema, the regular expression or the grammar.",
            tensor=EnsembleInputs.GUIDED_DECODING_GUIDE,
            openai="response_format",
        ),
    ] = None
    priority: Annotated[
        int | None,
        Parameter(
            meaning="1 goes first, 5 last; 3 is the default. Not known to TensorRT-LLM's engine.",
            tensor=OwnInputs.PRIORITY,
        ),
    ] = None

    def inputs(self) -> dict[str, tuple[Value, ...]]:
        """The ensemble's inputs that these parameters send, in the contract's names.

        A temperature above 0 without any of `top_k`, `top_p` and `min_p` samples from all tokens,
        as people expect: `top_p` is sent as 1. To TensorRT-LLM, temperature alone changes nothing.
        """
        inputs: dict[str, tuple[Value, ...]] = {}
        for name, row in ROWS.items():
            inputs.update(row.inputs(getattr(self, name)))
        bounds = (self.top_k, self.top_p, self.min_p)
        if self.temperature and all(bound is None for bound in bounds):
            inputs[EnsembleInputs.TOP_P.name] = (1.0,)
        return inputs


class ParameterKeywords(ChatKeywords, total=False):
    """The fields of `GenerationParameters` as keyword arguments, for type checkers."""

    max_tokens: int
    fit_max_tokens: bool | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    stop_words: Sequence[str]
    seed: int | None
    presence_penalty: float | None
    frequency_penalty: float | None
    prompt_ignore_length: int | None
    repetition_penalty: float | None
    min_tokens: int | None
    end_id: int | None
    logit_bias: Mapping[int, float]
    embedding_bias: Mapping[str, float]
    bad_words: Sequence[str]
    num_return_sequences: int | None
    return_log_probs: bool | None
    num_top_log_probs: int | None
    num_prompt_log_probs: int | None
    exclude_input_in_output: bool | None
    include_stop_str_in_output: bool | None
    return_num_input_tokens: bool | None
    return_num_output_tokens: bool | None
    return_computed_tokens: bool | None
    return_prompt_tokens: bool | None
    return_perf_metrics: bool | None
    prompt_token_ids: Sequence[int]
    guided_decoding_guide_type: str | None
    guided_decoding_guide: str | None
    priority: int | None


ROWS = rows_of(GenerationParameters)
"""The rows by their names, in order."""

SAMPLED: dict[Tensor, Parameter] = {
    row.engine: row for row in ROWS.values() if row.engine is not None
}
"""Those that the engine samples by, by its own inputs."""

ASKED: dict[str, Parameter] = {
    row.openai: row for row in ROWS.values() if row.openai is not None and row.asked is not None
}
"""Those that OpenAI's API, or those who extend it, take as they are, by their names there."""

OUR_ROWS = tuple(row for tensor, row in SAMPLED.items() if tensor not in EngineInputs.all())
"""Those that TensorRT-LLM's engine doesn't know: their tensors are ours."""
