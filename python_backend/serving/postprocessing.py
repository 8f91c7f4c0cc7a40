"""The ``postprocessing`` model: tokens to safe text, piece by piece.

Decoupled, so that a piece can be answered with nothing: the engine's liveness probes are. It is the
only step of the ensemble where a client that went away shows, so it is also what tells the engine
to stop, with a second request to the engine: TensorRT-LLM's own way, that works for every engine.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass, field
from threading import Thread

import numpy as np
import triton_python_backend_utils as pb_utils

from python_backend.contract import STATISTICS, TENSORRT_LLM
from python_backend.safety.redactor import Redactor
from python_backend.serving.triton import Inputs, model_config, resolve
from python_backend.settings import PostprocessingSettings, from_model_config
from python_backend.text.detokenizer import Detokenizer
from python_backend.text.tokenizer import TextTokenizer

_FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
_CHECK_CLIENT_EVERY_S = 0.05
_FORGET_AFTER_S = 3600.0
"""A stream of which nothing was heard for so long has ended without saying so."""


@dataclass
class _Stream:
    """What is known of one sequence between two of its pieces."""

    detokenizer: Detokenizer
    redactor: Redactor
    client_seen_s: float = field(default_factory=time.monotonic)

    def add(self, tokens: list[int], final: bool) -> str:
        return self.redactor.add(self.detokenizer.add(tokens, final), final)


class TritonPythonModel:
    """Detokenizes and redacts the pieces of many streams."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the tokenizer that the settings name."""
        self._settings = from_model_config(PostprocessingSettings, model_config(args))
        folder = resolve(args, self._settings.tokenizer_dir)
        self._vocabulary = TextTokenizer.load(folder).vocabulary
        self._streams: OrderedDict[int, _Stream] = OrderedDict()

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> None:
        """Answer each piece with its text, or with nothing where there is nothing to say."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                response = self._answer(request)
            except Exception as error:  # a piece that fails ends its own stream and no other
                response = pb_utils.InferenceResponse(
                    error=pb_utils.TritonError(f"postprocessing failed: {error}")
                )
            # One message where one will do: each costs about as much as all the work above.
            if response is None:
                sender.send(flags=_FINAL)
            else:
                sender.send(response, flags=_FINAL)

    def _answer(self, request: pb_utils.InferenceRequest) -> pb_utils.InferenceResponse | None:
        inputs = Inputs(request)
        tokens = inputs.array("TOKENS_BATCH")
        lengths = inputs.array("SEQUENCE_LENGTH")
        assert tokens is not None, "Triton refuses a request without TOKENS_BATCH"
        assert lengths is not None, "Triton refuses a request without SEQUENCE_LENGTH"
        rows = tokens.reshape(lengths.size, tokens.shape[-1])
        sequences = [
            row[:length].tolist() for row, length in zip(rows, lengths.reshape(-1), strict=True)
        ]
        sequence_id = inputs.array("sequence_id")
        if sequence_id is None:
            # An engine that says no more than TensorRT-LLM's: each response is a text of its own.
            return _response(inputs, [self._new().add(ids, final=True) for ids in sequences], None)
        return self._piece(request, inputs, int(sequence_id.item()), sequences[0])

    def _piece(
        self, request: pb_utils.InferenceRequest, inputs: Inputs, key: int, tokens: list[int]
    ) -> pb_utils.InferenceResponse | None:
        reason_array = inputs.array("finish_reason")
        reason = "" if reason_array is None else reason_array.item().decode()
        stream = self._streams.pop(key, None) or self._new()
        if self._is_gone(request, stream):
            if not reason:
                _stop(request, key)
            return None
        if not tokens and not reason:
            self._streams[key] = stream
            return None
        text = stream.add(tokens, final=bool(reason))
        if not reason:
            self._streams[key] = stream
            self._forget_old()
        return _response(inputs, [text], reason)

    def _is_gone(self, request: pb_utils.InferenceRequest, stream: _Stream) -> bool:
        """Whether the client went away. To ask is a message of its own, so not for every piece."""
        now_s = time.monotonic()
        if now_s - stream.client_seen_s < _CHECK_CLIENT_EVERY_S:
            return False
        stream.client_seen_s = now_s
        return bool(request.is_cancelled())

    def _new(self) -> _Stream:
        detokenizer = Detokenizer(self._vocabulary, self._settings.skip_special_tokens)
        return _Stream(detokenizer, Redactor(self._settings.redact))

    def _forget_old(self) -> None:
        oldest = next(iter(self._streams.values()))
        if time.monotonic() - oldest.client_seen_s > _FORGET_AFTER_S:
            self._streams.popitem(last=False)


def _response(inputs: Inputs, texts: list[str], reason: str | None) -> pb_utils.InferenceResponse:
    # One text a sequence without a batch dimension: so are TensorRT-LLM's own.
    encoded = np.array([text.encode() for text in texts], dtype=object)
    outputs = [pb_utils.Tensor("OUTPUT", encoded)]
    if reason is not None:
        finish_reason = np.array([[reason.encode()]], dtype=object)
        outputs.append(pb_utils.Tensor("finish_reason", finish_reason))
    for name in STATISTICS:
        array = inputs.array(name)
        if array is not None:
            outputs.append(pb_utils.Tensor(name, array))
    return pb_utils.InferenceResponse(outputs)


def _stop(request: pb_utils.InferenceRequest, sequence_id: int) -> None:
    """Ask the engine to end a sequence, without waiting for its answer."""
    stop = pb_utils.InferenceRequest(
        model_name=TENSORRT_LLM,
        request_id=request.request_id(),
        requested_output_names=[],
        inputs=[
            pb_utils.Tensor("input_ids", np.zeros((1, 1), dtype=np.int32)),
            pb_utils.Tensor("input_lengths", np.ones((1, 1), dtype=np.int32)),
            pb_utils.Tensor("request_output_len", np.ones((1, 1), dtype=np.int32)),
            pb_utils.Tensor("stop", np.ones((1, 1), dtype=bool)),
            pb_utils.Tensor("sequence_id", np.full((1, 1), sequence_id, dtype=np.uint64)),
        ],
    )
    Thread(target=lambda: list(stop.exec(decoupled=True)), daemon=True).start()
