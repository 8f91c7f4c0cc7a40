"""The ``preprocessing`` model: text that a policy lets through, to tokens."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from contract.bounds import BAD_WORDS, BIAS_WORDS, MAX_BIAS_IDS, STOP_WORDS, Bound
from contract.ensemble import ensemble_steps
from contract.errors import InvalidRequestError
from contract.memory import give_back_memory
from contract.model_settings import PreprocessingParameters, from_model_config
from contract.models import EnsembleInputs
from contract.models import PreprocessingInputs as _In
from contract.models import PreprocessingOutputs as _Out
from contract.names import ADD_SPECIAL_TOKENS, CHAT_TEMPLATE, SAFETY_POLICY
from contract.tensors import Tensor
from python_backend.safety.policy import Policy
from python_backend.serving.answer import StreamContext
from python_backend.serving.chat_inputs import plan_tensors, read_options
from python_backend.serving.chats import Chat
from python_backend.serving.once import check_single, check_whole
from python_backend.serving.parameter_names import check_names
from python_backend.serving.prompts import CHAT_TEMPLATE_CHOICES, Prompt, PromptReader
from python_backend.serving.quality import TextMetrics
from python_backend.serving.triton_api import (
    Inputs,
    model_config,
    open_policies,
    refusal,
    resolve,
    triton_tensor,
)
from python_backend.text.messages import read_messages, read_tools, read_variables
from python_backend.text.tokenizer import TextTokenizer
from python_backend.tools.chat_options import ChatOptions, Plan

_WORDS = {_In.STOP_WORDS_DICT: STOP_WORDS, _In.BAD_WORDS_DICT: BAD_WORDS}
_LARGE_BYTES = 1 << 20
"""After a request with so much text, what it took of memory is given back."""

_CLIENT_NAMES = ensemble_steps()[0].input_map


class TritonPythonModel:
    """Tokenizes prompts, stop words, bad words and biased words, and holds prompts to a policy."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the tokenizer and the policies that the settings name."""
        self._settings = from_model_config(PreprocessingParameters, model_config(args))
        self._tokenizer = TextTokenizer.load(resolve(args, self._settings.tokenizer_dir))
        self._policies = open_policies(self._settings)
        self._metrics = TextMetrics(args["model_name"], args["model_version"])
        self._reader = PromptReader(self._tokenizer, self._settings, self._metrics.count_verdicts)

    def execute(
        self, requests: list[pb_utils.InferenceRequest]
    ) -> list[pb_utils.InferenceResponse]:
        """Answer each request with its tokens, or with what is wrong with it."""
        responses = []
        for request in requests:
            inputs = Inputs(request)
            try:
                responses.append(self._tokenize(inputs))
            except Exception as error:  # one request's trouble is not another's
                responses.append(refusal(error))
            if inputs.text_bytes > _LARGE_BYTES:
                give_back_memory()
        return responses

    def finalize(self) -> None:
        """End the threads."""
        self._policies.close()
        self._metrics.close()

    def _tokenize(self, inputs: Inputs) -> pb_utils.InferenceResponse:
        for tensor in (_In.DECODER_QUERY, _In.PROMPT_TABLE_EXTRA_ID):
            given = inputs.array(tensor)
            if given is not None and given.any():
                name = _client_name(tensor)
                raise InvalidRequestError(f"{name} is not supported", name)
        check_names(inputs.parameters())
        max_tokens = inputs.required(_In.REQUEST_OUTPUT_LEN)
        inputs.required(_In.QUERY)
        texts = _texts(inputs, _In.QUERY, self._reader.text_bound) or []
        policy = self._policies.current.get(inputs.parameters().get(SAFETY_POLICY))
        batch = len(texts)
        streams = _flag(inputs, _In.STREAM, batch, False)
        if not self._settings.decoupled:
            check_whole(streams, EnsembleInputs.STREAM)
            check_single(batch, copies=1)  # the engine sees how many are asked for
        options = read_options(inputs, batch)
        prompts = self._prompts(inputs, [row[0] for row in texts], options, policy)
        lengths = np.array([[prompt.ids.size] for prompt in prompts], dtype=np.int32)
        ids = np.full((batch, lengths.max()), self._tokenizer.pad_id, dtype=np.int32)
        for row, prompt in zip(ids, prompts, strict=True):
            row[: prompt.ids.size] = prompt.ids
        contexts = self._contexts(inputs, prompts, policy)
        # The engine ends at a stop word wherever it comes; postprocessing knows how early it may.
        ends_anywhere = not any(each.min_tokens for each in contexts)
        streaming = streams or any(each.whole for each in contexts)
        said = [[context.to_bytes()] for context in contexts]
        return pb_utils.InferenceResponse(
            [
                triton_tensor(_Out.INPUT_ID, ids),
                triton_tensor(_Out.REQUEST_INPUT_LEN, lengths),
                *self._decoder_input(inputs, batch),
                triton_tensor(_Out.REQUEST_OUTPUT_LEN, max_tokens),
                triton_tensor(_Out.BAD_WORDS_IDS, self._words(inputs, _In.BAD_WORDS_DICT, batch)),
                triton_tensor(
                    _Out.STOP_WORDS_IDS,
                    self._words(inputs, _In.STOP_WORDS_DICT, batch)
                    if ends_anywhere
                    else self._tokenizer.word_list([[]] * batch),
                ),
                triton_tensor(_Out.EMBEDDING_BIAS, self._bias(inputs, batch)),
                triton_tensor(
                    _Out.OUT_END_ID, _or(inputs, _In.END_ID, self._tokenizer.end_id, batch)
                ),
                triton_tensor(
                    _Out.OUT_PAD_ID, _or(inputs, _In.PAD_ID, self._tokenizer.pad_id, batch)
                ),
                triton_tensor(_Out.LIVENESS_PROBES, np.full((batch, 1), self._settings.decoupled)),
                triton_tensor(_Out.STREAMING, np.full((batch, 1), streaming)),
                triton_tensor(_Out.STREAM_CONTEXT, np.array(said, dtype=object)),
                *plan_tensors([prompt.plan for prompt in prompts]),
            ]
        )

    def _decoder_input(self, inputs: Inputs, batch: int) -> list[pb_utils.Tensor]:
        """The token that a decoder beside an encoder would begin with, as TensorRT-LLM says it."""
        first = _or(inputs, _In.PAD_ID, self._tokenizer.pad_id, batch)
        return [
            triton_tensor(_Out.DECODER_INPUT_ID, first),
            triton_tensor(_Out.REQUEST_DECODER_INPUT_LEN, np.ones_like(first)),
        ]

    def _contexts(
        self, inputs: Inputs, prompts: list[Prompt], policy: Policy
    ) -> list[StreamContext]:
        """What postprocessing is told of each row.

        Where a stop text or the policy may end an answer early, the engine streams also for a
        client that wants one response, so that it can be stopped; where it can't stream, it goes
        on behind that.
        """
        batch = len(prompts)
        stops = _texts(inputs, _In.STOP_WORDS_DICT, _WORDS[_In.STOP_WORDS_DICT]) or [[]] * batch
        include_stop = _flag(inputs, _In.INCLUDE_STOP_STR_IN_OUTPUT, batch, True)
        exclude = self._settings.exclude_input_in_output
        streams = _flag(inputs, _In.STREAM, batch, False)
        echo = not streams and not _flag(inputs, _In.EXCLUDE_INPUT_IN_OUTPUT, batch, exclude)
        ends = _or(inputs, _In.END_ID, self._tokenizer.end_id, batch).reshape(-1)
        min_tokens = inputs.scalars(_In.MIN_TOKENS, batch) or [0] * batch
        can_end = self._settings.decoupled and not streams
        ends_early = can_end and (any(any(row) for row in stops) or policy.output.blocks)
        return [
            StreamContext(
                stops=tuple(filter(None, row)),
                include_stop=include_stop,
                whole=ends_early,
                echo_tokens=prompt.ids.size if echo and not ends_early else 0,
                # An engine that streams sends no prompt.
                prompt=tuple(prompt.ids.tolist()) if echo and ends_early else (),
                goes_on=prompt.goes_on,
                before=prompt.end if policy.output.finders and not echo else "",
                own_end=int(end) == self._tokenizer.end_id,
                verdicts=tuple(verdict.as_json() for verdict in prompt.verdicts),
                min_tokens=max(least, 0) if any(row) else 0,
                reading=None if echo else prompt.plan.reading,
            )
            for row, least, prompt, end in zip(stops, min_tokens, prompts, ends, strict=True)
        ]

    def _prompts(
        self, inputs: Inputs, texts: list[str], options: list[ChatOptions], policy: Policy
    ) -> list[Prompt]:
        """Tokens of each row, from its chat or from its text."""
        bound = self._reader.json_bound
        chats, tools, variables = (
            _texts(inputs, tensor, bound)
            for tensor in (_In.MESSAGES, _In.TOOLS, _In.CHAT_TEMPLATE_KWARGS)
        )
        ids = inputs.array(_In.PROMPT_TOKEN_IDS)
        for tensor in (_In.MESSAGES, _In.PROMPT_TOKEN_IDS):
            if inputs.array(tensor) is not None and any(texts):
                text, name = EnsembleInputs.TEXT_INPUT.name, _client_name(tensor)
                raise InvalidRequestError(f"{text} must be empty beside {name}", text)
        if chats is None:
            if tools or variables:
                name = EnsembleInputs.TOOLS.name
                raise InvalidRequestError(f"{name} and chat_template_kwargs need messages", name)
            if ids is not None:
                prompts = [self._reader.read_ids(row.copy(), policy) for row in ids]
            else:
                choice, special = self._chat_template(inputs), _special_tokens(inputs)
                prompts = [self._reader.read_text(text, policy, choice, special) for text in texts]
            return [
                replace(prompt, plan=Plan(guide=option.guide))
                for prompt, option in zip(prompts, options, strict=True)
            ]
        if ids is not None:
            name = EnsembleInputs.PROMPT_TOKEN_IDS.name
            raise InvalidRequestError(f"{name} and messages are both prompts; give one", name)
        return [
            self._reader.read_chat(
                Chat(
                    read_messages(row[0]),
                    read_tools(tools[index][0]) if tools else None,
                    read_variables(variables[index][0]) if variables else None,
                    options[index],
                ),
                policy,
            )
            for index, row in enumerate(chats)
        ]

    def _chat_template(self, inputs: Inputs) -> str:
        """Whether a text becomes a user's message: the request's word, else the setting's."""
        choice = inputs.parameters().get(CHAT_TEMPLATE, self._settings.chat_template)
        if choice not in CHAT_TEMPLATE_CHOICES:
            raise InvalidRequestError(
                f"{CHAT_TEMPLATE} is {choice!r}; it must be 'auto', 'on' or 'off'", CHAT_TEMPLATE
            )
        return str(choice)

    def _words(self, inputs: Inputs, tensor: Tensor, batch: int) -> NDArray[np.int32]:
        words = _texts(inputs, tensor, _WORDS[tensor]) or [[]] * batch
        return self._tokenizer.word_list(words)

    def _bias(self, inputs: Inputs, batch: int) -> NDArray[np.float32]:
        """Bias of each token, float32 ``[batch, vocab]``, or ``[batch, 0]`` where there is none."""
        words = _texts(inputs, _In.EMBEDDING_BIAS_WORDS, BIAS_WORDS)
        weights = inputs.array(_In.EMBEDDING_BIAS_WEIGHTS)
        ids = inputs.array(_In.EMBEDDING_BIAS_IDS)
        if ids is not None:
            return self._bias_of_ids(ids, weights, words)
        if words is None and weights is None:
            return np.zeros((batch, 0), dtype=np.float32)
        if words is None or weights is None or weights.shape != (batch, len(words[0])):
            raise InvalidRequestError(
                "embedding_bias_words and embedding_bias_weights must come together, "
                "one weight for each word",
                EnsembleInputs.EMBEDDING_BIAS_WORDS.name,
            )
        bias = np.zeros((batch, self._tokenizer.vocab_size), dtype=np.float32)
        for row, row_words, row_weights in zip(bias, words, weights, strict=True):
            for word, weight in zip(row_words, row_weights, strict=True):
                np.add.at(row, self._tokenizer.encode(word, add_special_tokens=False), weight)
        return bias

    def _bias_of_ids(
        self,
        ids: NDArray[np.int32],
        weights: NDArray[np.float32] | None,
        words: list[list[str]] | None,
    ) -> NDArray[np.float32]:
        if words is not None or weights is None or weights.shape != ids.shape:
            raise InvalidRequestError(
                "embedding_bias_ids and embedding_bias_weights must come together, "
                "one weight for each id, and without embedding_bias_words",
                EnsembleInputs.EMBEDDING_BIAS_IDS.name,
            )
        if ids.shape[1] > MAX_BIAS_IDS:
            raise InvalidRequestError(
                f"embedding_bias_ids has {ids.shape[1]} ids; it must have at most {MAX_BIAS_IDS}",
                EnsembleInputs.EMBEDDING_BIAS_IDS.name,
            )
        size = self._tokenizer.vocab_size
        if ids.size and not 0 <= ids.min() <= ids.max() < size:
            name = EnsembleInputs.EMBEDDING_BIAS_IDS.name
            raise InvalidRequestError(f"{name} must be between 0 and {size - 1}", name)
        bias = np.zeros((len(ids), size), dtype=np.float32)
        for row, row_ids, row_weights in zip(bias, ids, weights, strict=True):
            np.add.at(row, row_ids, row_weights)
        return bias


def _special_tokens(inputs: Inputs) -> bool | None:
    """Whether a text gets the tokenizer's own tokens: the request's word, if it says anything."""
    choice = inputs.parameters().get(ADD_SPECIAL_TOKENS)
    if choice is not None and not isinstance(choice, bool):
        raise InvalidRequestError(
            f"{ADD_SPECIAL_TOKENS} is {choice!r}; it must be true or false", ADD_SPECIAL_TOKENS
        )
    return choice


def _client_name(tensor: Tensor) -> str:
    """What a client of the ensemble calls an input."""
    return _CLIENT_NAMES[tensor.name]


def _texts(inputs: Inputs, tensor: Tensor, bound: Bound) -> list[list[str]] | None:
    return inputs.texts(tensor, _client_name(tensor), bound)


def _flag(inputs: Inputs, tensor: Tensor, batch: int, default: bool) -> bool:
    """A flag that holds for all rows of a request."""
    values = set(inputs.scalars(tensor, batch) or [default])
    if len(values) > 1:
        name = _client_name(tensor)
        raise InvalidRequestError(f"{name} must be the same for all {batch} rows of a batch", name)
    return bool(values.pop())


def _or(inputs: Inputs, tensor: Tensor, default: int, batch: int) -> NDArray[np.int32]:
    given = inputs.array(tensor)
    return np.full((batch, 1), default, dtype=np.int32) if given is None else given
