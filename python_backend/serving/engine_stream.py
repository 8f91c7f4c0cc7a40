"""A stream whose tokens an engine in this process makes, and what it tells of them."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.models import EngineOutputs
from contract.tensors import Tensor
from python_backend.engine.sequence import LogProbs, Sequence
from python_backend.guidance.guided import Guided
from python_backend.serving.encoding import Piece, number
from python_backend.serving.generation_request import Reporting, Row
from python_backend.serving.sessions import Stream

_FIRST_TOKENS = 2
"""A stream's first text is there with its second token: only that ends the first word, which a
safety policy may have to hold back."""
_ENTRIES_OF_A_RESPONSE = 256
"""To make texts of so many log probabilities, and read them, takes as long as a response does."""


class EngineStream(Stream):
    """A sequence of the engine on its way to a client.

    Attributes:
        sequence: The engine's.
        reporting: What its responses carry.
        num_sent: Its tokens that were sent.
    """

    def __init__(
        self,
        row: Row,
        reporting: Reporting,
        context: bytes,
        share: str = "",
        request: Hashable = None,
        guide: Guided | None = None,
    ) -> None:
        self.sequence = Sequence(
            row.prompt,
            row.params,
            row.priority,
            # What one tenant asked doesn't show in what another finds in the cache.
            salt=share.encode(),
            share=share,
            request=request,
            guide=guide,
            shapers=() if row.thinking is None else (row.thinking,),
        )
        super().__init__(self.sequence.id, row.batch_index, row.sequence_index, context)
        self.reporting = reporting
        self.num_sent = 0
        self._cum_log_prob = 0.0
        self._has_begun = False

    @property
    def share(self) -> str:
        """Whose part of the responses it takes."""
        return self.sequence.share

    @property
    def is_urgent(self) -> bool:
        """Whether its news are its first, or its last."""
        return bool(self.sequence.finish_reason) or self.num_sent < _FIRST_TOKENS

    @property
    def cost(self) -> float:
        """Of how many responses what there is to tell by now costs as much."""
        sequence = self.sequence
        params = sequence.params
        num_tokens = 0
        if params.reports_log_probs:
            num_tokens += len(sequence.output) - self.num_sent
        if not self._has_begun:
            num_tokens += len(sequence.prompt_log_probs)
        return 1 + num_tokens * (1 + params.num_top_log_probs) / _ENTRIES_OF_A_RESPONSE

    def send_news(self) -> None:
        """Send what there is since the last time, if there is anything."""
        self.queued = False
        if not self.ended:
            piece = self._take()
            if piece is not None:
                self.session.send(self, piece)

    def _take(self) -> Piece | None:
        """All that was not sent yet. The engine may go on meanwhile, so the reason comes first."""
        sequence = self.sequence
        reason = sequence.finish_reason
        tokens = sequence.output[self.num_sent :]
        if not (tokens or reason):
            return None
        before, self.num_sent = self.num_sent, self.num_sent + len(tokens)
        log_probs = sequence.log_probs[before : self.num_sent]
        self._cum_log_prob += sum(each.chosen for each in log_probs)
        ids = np.asarray(tokens, dtype=np.int32)
        if self.reporting.echo and reason:
            ids = np.concatenate([sequence.prompt, ids])
        statistics = self._statistics(len(tokens), log_probs)
        if not self._has_begun:
            self._has_begun = True
            statistics.update(self._of_prompt())
        return Piece((ids,), reason, statistics)

    def _statistics(self, num_tokens: int, log_probs: list[LogProbs]) -> dict[Tensor, NDArray[Any]]:
        """What the request asks for, of the tokens that leave now and of the whole."""
        params, reporting = self.sequence.params, self.reporting
        outputs: dict[Tensor, NDArray[Any]] = {}
        if params.reports_log_probs:
            chosen = [each.chosen for each in log_probs]
            cumulated = np.array([[self._cum_log_prob]], dtype=np.float32)
            outputs[EngineOutputs.CUM_LOG_PROBS] = cumulated
            outputs[EngineOutputs.OUTPUT_LOG_PROBS] = np.array([[chosen]], dtype=np.float32)
        if params.num_top_log_probs:
            top_ids, top = _likeliest(log_probs, params.num_top_log_probs)
            outputs[EngineOutputs.TOP_LOG_PROB_IDS] = top_ids[None, None]
            outputs[EngineOutputs.TOP_LOG_PROBS] = top[None, None]
        if reporting.num_input_tokens:
            outputs[EngineOutputs.NUM_INPUT_TOKENS] = number(self.sequence.prompt.size)
        if reporting.num_output_tokens:
            outputs[EngineOutputs.NUM_OUTPUT_TOKENS] = number(num_tokens)
        if reporting.computed_tokens:
            outputs.update(_computed(self.sequence))
        if reporting.perf_metrics:
            outputs.update(_perf_metrics(self.sequence))
        return outputs

    def _of_prompt(self) -> dict[Tensor, NDArray[Any]]:
        """What the request asks for of its prompt."""
        sequence = self.sequence
        outputs: dict[Tensor, NDArray[Any]] = {}
        if self.reporting.prompt_tokens:
            outputs[EngineOutputs.PROMPT_IDS] = sequence.prompt[None]
        if sequence.params.num_prompt_log_probs:
            log_probs = sequence.prompt_log_probs
            chosen = [each.chosen for each in log_probs]
            outputs[EngineOutputs.PROMPT_LOG_PROBS] = np.array([chosen], dtype=np.float32)
            if width := sequence.params.num_top_log_probs:
                top_ids, top = _likeliest(log_probs, width)
                outputs[EngineOutputs.PROMPT_TOP_LOG_PROB_IDS] = top_ids[None]
                outputs[EngineOutputs.PROMPT_TOP_LOG_PROBS] = top[None]
        return outputs


def _likeliest(
    log_probs: list[LogProbs], width: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The likeliest tokens in the places of some, and how likely they are: ``[tokens, width]``.

    A vocabulary may have fewer than are asked for.
    """
    shape = (len(log_probs), -1 if log_probs else width)
    ids = np.array([each.top_ids for each in log_probs], dtype=np.int32)
    values = np.array([each.top for each in log_probs], dtype=np.float32)
    return ids.reshape(shape), values.reshape(shape)


def _computed(sequence: Sequence) -> dict[Tensor, NDArray[Any]]:
    """What was computed of it; what it found in the cache was not."""
    return {
        EngineOutputs.NUM_CACHED_TOKENS: number(sequence.num_cached_tokens),
        EngineOutputs.NUM_COMPUTED_INPUT_TOKENS: number(sequence.num_prompt_computed),
        EngineOutputs.NUM_COMPUTED_OUTPUT_TOKENS: number(sequence.num_generated),
    }


def _perf_metrics(sequence: Sequence) -> dict[Tensor, NDArray[Any]]:
    """Times, what of the KV cache was new, and how many drafts were right."""
    new, reused = sequence.num_new_blocks, sequence.num_reused_blocks
    drafts, right = sequence.num_drafts, sequence.num_right_drafts
    return {
        EngineOutputs.KV_CACHE_ALLOC_NEW_BLOCKS: number(new),
        EngineOutputs.KV_CACHE_REUSED_BLOCKS: number(reused),
        EngineOutputs.KV_CACHE_ALLOC_TOTAL_BLOCKS: number(new + reused),
        EngineOutputs.ARRIVAL_TIME_NS: _time(sequence.arrival_ns),
        EngineOutputs.FIRST_SCHEDULED_TIME_NS: _time(sequence.first_scheduled_ns),
        EngineOutputs.FIRST_TOKEN_TIME_NS: _time(sequence.first_token_ns),
        EngineOutputs.LAST_TOKEN_TIME_NS: _time(sequence.last_token_ns),
        EngineOutputs.ACCEPTANCE_RATE: np.array([[right / max(drafts, 1)]], dtype=np.float32),
        EngineOutputs.TOTAL_ACCEPTED_DRAFT_TOKENS: number(right),
        EngineOutputs.TOTAL_DRAFT_TOKENS: number(drafts),
    }


def _time(time_ns: int) -> NDArray[np.int64]:
    return np.array([[time_ns]], dtype=np.int64)
