"""The ``postprocessing`` model: tokens to safe text, piece by piece.

Decoupled, so that a piece can be answered with nothing: the engine's liveness probes are. It is the
only step of the ensemble where a client that went away shows, and where a stop text or a policy
ends an answer, so it is also what tells the engine to stop, with a second request to the engine:
TensorRT-LLM's own way, that works for every engine.
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from threading import Thread
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from contract.codes import Ending, FinishReason
from contract.errors import InvalidRequestError
from contract.model_settings import PostprocessingParameters, from_model_config
from contract.models import PostprocessingInputs as _In
from contract.models import PostprocessingOutputs as _Out
from contract.models import Statistics
from contract.tensors import Tensor
from python_backend.safety.policy import Policy
from python_backend.serving.answer import Answer, Piece, StreamContext, Token
from python_backend.serving.prompt_scores import leave_out
from python_backend.serving.quality import AnswerSignals, TextMetrics
from python_backend.serving.stop_request import stop_request
from python_backend.serving.triton_api import (
    Inputs,
    model_config,
    open_policies,
    refusal,
    resolve,
    triton_tensor,
)
from python_backend.text.tokenizer import TextTokenizer
from python_backend.tools.events import calls_as_json

_FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
_CHECK_CLIENT_EVERY_S = 0.2
_OF_TOKENS = (
    Statistics.NUM_OUTPUT_TOKENS,
    Statistics.OUTPUT_LOG_PROBS,
    Statistics.TOP_LOG_PROB_IDS,
    Statistics.TOP_LOG_PROBS,
)
_OF_PROMPT = (
    Statistics.PROMPT_IDS,
    Statistics.PROMPT_LOG_PROBS,
    Statistics.PROMPT_TOP_LOG_PROB_IDS,
    Statistics.PROMPT_TOP_LOG_PROBS,
)
_WHOLE_STATISTICS = tuple(
    tensor for tensor in Statistics.all() if tensor not in (*_OF_TOKENS, *_OF_PROMPT)
)
"""What the engine's response says goes on as it is, but for what belongs to single tokens, and for
what the first alone says."""


@dataclass
class _Stream:
    """What is known of one sequence between two of its pieces.

    Attributes:
        answer: Its text.
        lost: Nobody can say what of it may leave: what came before was lost with this model's
            process, or the policy is gone.
        signals: What is counted of it.
        pieces: What the client is still to get: all of it where it wants one response, else tokens
            whose text is held back.
        num_output_tokens: The tokens of those.
        of_prompt: What the client is still to get of its prompt.
        gone: Whether its client went away.
        client_seen_s: When its client was last known to be there.
    """

    answer: Answer
    lost: bool = False
    signals: AnswerSignals = field(default_factory=AnswerSignals)
    pieces: list[Piece] = field(default_factory=list)
    num_output_tokens: int = 0
    of_prompt: list[pb_utils.Tensor] = field(default_factory=list)
    gone: bool = False
    client_seen_s: float = field(default_factory=time.monotonic)


class TritonPythonModel:
    """Turns the pieces of many sequences into text."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the tokenizer and the policies that the settings name."""
        self._settings = from_model_config(PostprocessingParameters, model_config(args))
        folder = resolve(args, self._settings.tokenizer_dir)
        self._vocabulary = TextTokenizer.load(folder).vocabulary
        self._policies = open_policies(self._settings)
        self._metrics = TextMetrics(args["model_name"], args["model_version"])
        self._engine = self._settings.engine_model
        self._streams: OrderedDict[int, _Stream] = OrderedDict()

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> None:
        """Answer each piece with its text, or with nothing where there is nothing to say."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                response = self._answer(request)
            except Exception as error:  # a piece that fails ends its own stream and no other
                response = refusal(error)
            if response is None and not self._settings.decoupled:
                response = pb_utils.InferenceResponse([])
            # One message where one will do: each costs about as much as all the work above.
            if response is None:
                sender.send(flags=_FINAL)
            else:
                sender.send(response, flags=_FINAL)
        self._metrics.open_answers = len(self._streams)

    def finalize(self) -> None:
        """End the threads."""
        self._policies.close()
        self._metrics.close()

    def _answer(self, request: pb_utils.InferenceRequest) -> pb_utils.InferenceResponse | None:
        inputs = Inputs(request)
        sequence_id = inputs.array(_In.SEQUENCE_ID)
        ended = inputs.array(_In.FINISH_REASON)
        reason: Ending = "" if ended is None else ended.item().decode()
        lengths = inputs.required(_In.SEQUENCE_LENGTH).reshape(-1)
        rows = _rows(inputs.required(_In.TOKENS_BATCH), lengths.size)
        if lengths.size != 1 or sequence_id is None:
            return self._answer_beams(inputs, rows, lengths, reason)
        key = int(sequence_id.item())
        tokens: list[int] = rows[0, : lengths[0]].tolist()
        stream = self._streams.pop(key, None) or self._open(inputs)
        self._forget_old()
        if not reason:
            self._streams[key] = stream
        if stream.answer.ended:
            return _what_it_cost(inputs) if reason and not stream.gone else None
        is_probe = not (tokens or reason)
        if self._is_gone(request, stream, ask_now=is_probe):
            self._give_up(stream, "cancelled")
            stream.gone = True
            if not reason:
                self._stop(request, key, client_gone=True)
            return None
        if is_probe:
            return None
        piece = self._add(inputs, stream, tokens, reason)
        if piece.ends_early:
            self._stop(request, key)
        stream.pieces.append(piece)
        stream.num_output_tokens += piece.num_tokens
        says_something = piece.text or piece.reasoning or piece.calls or piece.verdicts
        says = not stream.answer.context.whole and says_something
        if not (says or piece.finish_reason):
            return None
        response = _response(inputs, stream)
        stream.pieces, stream.num_output_tokens, stream.of_prompt = [], 0, []
        return response

    def _answer_beams(
        self,
        inputs: Inputs,
        rows: NDArray[np.int32],
        lengths: NDArray[np.int32],
        reason: Ending,
    ) -> pb_utils.InferenceResponse:
        """All beams of one prompt at once: each is an answer of its own, and ends here.

        So are tokens without a sequence's id: a program asks for their text alone.
        """
        pieces = []
        for row, length in zip(rows, lengths, strict=True):
            stream = self._open(inputs, is_read=False)
            pieces.append(self._add(inputs, stream, row[:length].tolist(), reason or "stop"))
        encoded = np.array([piece.text.encode() for piece in pieces], dtype=object)
        outputs = [triton_tensor(_Out.OUTPUT, encoded), *_statistics(inputs, Statistics.all())]
        outputs += _extras([verdict for piece in pieces for verdict in piece.verdicts], reason)
        return pb_utils.InferenceResponse(outputs)

    def _open(self, inputs: Inputs, is_read: bool = True) -> _Stream:
        """A sequence's first piece; ``is_read``: its answer is read, where that was asked for."""
        context = inputs.array(_In.STREAM_CONTEXT)
        policies = self._policies.current
        lost = context is None and inputs.array(_In.SEQUENCE_ID) is not None
        try:
            policy = policies.get(inputs.parameters().get("safety_policy"))
        except InvalidRequestError:  # it was there when the prompt was read
            policy, lost = policies.get(None), True
        said = StreamContext.from_bytes(b"" if context is None else context.item())
        said = said if is_read else replace(said, reading=None)
        answer = Answer(self._vocabulary, policy, said, self._settings.skip_special_tokens)
        return _Stream(answer, lost, of_prompt=self._of_prompt(inputs, policy))

    def _of_prompt(self, inputs: Inputs, policy: Policy) -> list[pb_utils.Tensor]:
        """What a sequence's first piece says of its prompt, with the texts of the tokens."""
        arrays = {tensor: inputs.array(tensor) for tensor in _OF_PROMPT}
        told = {tensor: array for tensor, array in arrays.items() if array is not None}
        leave_out(told, self._vocabulary, policy.output)
        tensors = [triton_tensor(tensor, array) for tensor, array in told.items()]
        for ids, texts in (
            (_In.PROMPT_IDS, _Out.PROMPT_TOKEN_TEXTS),
            (_In.PROMPT_TOP_LOG_PROB_IDS, _Out.PROMPT_TOP_TOKENS),
        ):
            if ids in told:
                names = map(self._vocabulary.text_of, told[ids].reshape(-1).tolist())
                tensors.append(triton_tensor(texts, _strings([*names]).reshape(told[ids].shape)))
        return tensors

    def _add(self, inputs: Inputs, stream: _Stream, tokens: list[int], reason: Ending) -> Piece:
        """The next piece; where checking fails, the answer ends and nothing unchecked leaves."""
        answer = stream.answer
        try:
            if stream.lost:
                raise RuntimeError("its beginning or its policy is not known")
            log_probs = inputs.array(_In.OUTPUT_LOG_PROBS)
            if log_probs is None:
                piece = answer.add(tokens, reason)
            else:
                piece = answer.add(tokens, reason, log_probs.reshape(-1).tolist(), _top(inputs))
        except Exception as error:
            pb_utils.Logger.log_error(f"an answer could not be checked: {error!r}")
            answer.ended = True
            piece = Piece(finish_reason="error", num_tokens=len(tokens), ends_early=not reason)
        of_answer = slice(answer.context.echo_tokens, piece.num_tokens)
        stream.signals.add(tokens[of_answer], piece.said)
        self._metrics.count_verdicts(answer.policy, piece.found)
        if piece.finish_reason:
            self._metrics.count_answer(
                answer.policy, piece.finish_reason, stream.signals, answer.verdicts
            )
        return piece

    def _is_gone(
        self, request: pb_utils.InferenceRequest, stream: _Stream, *, ask_now: bool
    ) -> bool:
        """Whether the client went away. To ask is a message of its own, so not for every piece."""
        now_s = time.monotonic()
        if not ask_now and now_s - stream.client_seen_s < _CHECK_CLIENT_EVERY_S:
            return False
        stream.client_seen_s = now_s
        return bool(request.is_cancelled())

    def _forget_old(self) -> None:
        """Drop what ended without saying so: the engine answered with an error, or died."""
        long_ago_s = time.monotonic() - self._settings.forget_after_s
        while self._streams and next(iter(self._streams.values())).client_seen_s < long_ago_s:
            _, stream = self._streams.popitem(last=False)
            if not stream.answer.ended:
                self._give_up(stream, "error")

    def _give_up(self, stream: _Stream, reason: FinishReason) -> None:
        """End an answer that nobody waits for any more."""
        answer = stream.answer
        answer.ended = True
        stream.pieces.clear()
        self._metrics.count_answer(answer.policy, reason, stream.signals, answer.verdicts)

    def _stop(
        self, request: pb_utils.InferenceRequest, sequence_id: int, *, client_gone: bool = False
    ) -> None:
        """Ask the engine to end a sequence, or its request, without waiting for its answer."""
        stop = stop_request(
            self._engine, request.request_id(), sequence_id, client_gone=client_gone
        )
        Thread(target=lambda: list(stop.exec(decoupled=True)), daemon=True).start()


def _rows(tokens: NDArray[np.int32], count: int) -> NDArray[np.int32]:
    """The tokens of each length, int32 ``[count, tokens]``."""
    if not count or tokens.size % count:
        raise InvalidRequestError(
            f"{_In.SEQUENCE_LENGTH.name} has {count} values; it must have one for each row of "
            f"{_In.TOKENS_BATCH.name}, which has {tokens.size} tokens"
        )
    return tokens.reshape(count, -1)


def _response(inputs: Inputs, stream: _Stream) -> pb_utils.InferenceResponse:
    """The response that carries what there is of one sequence."""
    pieces = stream.pieces
    # One text a sequence without a batch dimension: so are TensorRT-LLM's own.
    text = "".join(piece.text for piece in pieces)
    outputs = [triton_tensor(_Out.OUTPUT, np.array([text.encode()], dtype=object))]
    outputs += [*_statistics(inputs, _WHOLE_STATISTICS), *stream.of_prompt]
    if inputs.array(_In.NUM_OUTPUT_TOKENS) is not None:
        count = np.array([[stream.num_output_tokens]], dtype=np.int32)
        outputs.append(triton_tensor(_Out.NUM_OUTPUT_TOKENS, count))
    if inputs.array(_In.OUTPUT_LOG_PROBS) is not None:
        top = inputs.array(_In.TOP_LOG_PROBS)
        width = 0 if top is None else top.shape[-1]
        outputs += _tokens([token for piece in pieces for token in piece.tokens], width)
    outputs += _read_apart(pieces)
    verdicts = [verdict for piece in pieces for verdict in piece.verdicts]
    extras = _extras(verdicts, pieces[-1].finish_reason, pieces[-1].stop_text)
    return pb_utils.InferenceResponse([*outputs, *extras])


def _read_apart(pieces: list[Piece]) -> list[pb_utils.Tensor]:
    """Thinking and calls, where they are told apart from the text."""
    counts = [piece.num_reasoning for piece in pieces if piece.num_reasoning is not None]
    if not counts:
        return []
    count = np.array([[sum(counts)]], dtype=np.int32)
    outputs = [triton_tensor(_Out.NUM_REASONING_TOKENS, count)]
    reasoning = "".join(piece.reasoning for piece in pieces)
    calls = calls_as_json(call for piece in pieces for call in piece.calls)
    texts = {
        _Out.REASONING_OUTPUT: reasoning,
        _Out.TOOL_CALLS: json.dumps(calls, ensure_ascii=False) if calls else "",
    }
    return [
        *outputs,
        *(
            triton_tensor(tensor, np.array([[text.encode()]], dtype=object))
            for tensor, text in texts.items()
            if text
        ),
    ]


def _what_it_cost(inputs: Inputs) -> pb_utils.InferenceResponse | None:
    """What the engine computed of an answer that had ended before; None where nobody asked."""
    if inputs.array(_In.NUM_COMPUTED_OUTPUT_TOKENS) is None:
        return None
    text = triton_tensor(_Out.OUTPUT, np.array([b""], dtype=object))
    return pb_utils.InferenceResponse([text, *_statistics(inputs, _WHOLE_STATISTICS)])


def _statistics(inputs: Inputs, tensors: Iterable[Tensor]) -> list[pb_utils.Tensor]:
    return [triton_tensor(*each) for each in inputs.given(tensors)]


def _extras(
    verdicts: list[dict[str, Any]], reason: Ending, stop_text: str = ""
) -> list[pb_utils.Tensor]:
    texts = {
        _Out.FINISH_REASON: reason,
        _Out.STOP_TEXT: stop_text if reason == "stop" else "",
        _Out.SAFETY_VERDICTS: json.dumps(verdicts) if verdicts else "",
    }
    return [
        triton_tensor(tensor, np.array([[text.encode()]], dtype=object))
        for tensor, text in texts.items()
        if text
    ]


def _tokens(tokens: list[Token], num_top: int) -> list[pb_utils.Tensor]:
    """The tokens of a text with their log probabilities, ``[1, 1, tokens]``, and the likeliest in
    their places, ``[1, 1, tokens, num_top]``.
    """
    arrays = {
        _Out.OUTPUT_LOG_PROBS: np.array([token.log_prob for token in tokens], dtype=np.float32),
        _Out.OUTPUT_TOKENS: _strings([token.text for token in tokens]),
    }
    shape: tuple[int, ...] = (1, 1, len(tokens))
    tensors = [triton_tensor(tensor, array.reshape(shape)) for tensor, array in arrays.items()]
    if not num_top:
        return tensors
    likeliest = [each for token in tokens for each in token.top]
    arrays = {
        _Out.TOP_LOG_PROB_IDS: np.array([each.id for each in likeliest], dtype=np.int32),
        _Out.TOP_LOG_PROBS: np.array([each.log_prob for each in likeliest], dtype=np.float32),
        _Out.TOP_TOKENS: _strings([each.text for each in likeliest]),
    }
    shape = (*shape, num_top)
    tensors += [triton_tensor(tensor, array.reshape(shape)) for tensor, array in arrays.items()]
    return tensors


def _strings(texts: list[str]) -> NDArray[Any]:
    return np.array([text.encode() for text in texts], dtype=object)


def _top(inputs: Inputs) -> list[list[tuple[int, float]]] | None:
    """The likeliest tokens in the place of each, with their log probabilities."""
    ids, values = inputs.array(_In.TOP_LOG_PROB_IDS), inputs.array(_In.TOP_LOG_PROBS)
    if ids is None or values is None:
        return None
    width = ids.shape[-1]
    rows = zip(ids.reshape(-1, width).tolist(), values.reshape(-1, width).tolist(), strict=True)
    return [list(zip(row_ids, row, strict=True)) for row_ids, row in rows]
