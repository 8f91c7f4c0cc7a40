"""The ``tensorrt_llm`` model on an engine in this process; which engine is for a subclass to say.

Three threads: Triton's, which checks requests and hands them over; the engine's (``engine_loop``),
which owns the engine and runs it step by step; and the sender's, since sending a response takes
longer than the engine can wait.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from dataclasses import replace
from functools import partial
from threading import Thread

import triton_python_backend_utils as pb_utils

from contract.errors import ServerBusyError
from contract.model_settings import EngineModelSettings
from contract.models import EngineInputs
from python_backend.engine.engine_core import EngineCore
from python_backend.engine.processor import available_cores
from python_backend.guidance.grammars import Grammars
from python_backend.serving.arrivals import answer_all, refuse
from python_backend.serving.engine_loop import EngineLoop
from python_backend.serving.engine_metrics import EngineMetrics
from python_backend.serving.engine_stream import EngineStream
from python_backend.serving.generation_request import GenerationRequest, read_request
from python_backend.serving.guide_compiler import GuideCompiler, NewGuide, no_guide
from python_backend.serving.once import check_single, check_whole, is_decoupled
from python_backend.serving.pacing import Outbox
from python_backend.serving.probing import Prober
from python_backend.serving.sessions import Session
from python_backend.serving.triton_api import Inputs, model_config

_RESPONSES_PER_CORE_S = 32
"""Each costs two to three milliseconds of a core beside a large engine: together up to a tenth."""


class EngineModel(ABC):
    """Generates tokens for many requests at once.

    Attributes:
        grammars: What compiles guides for the engine that was loaded; None where its texts can't
            be guided.
    """

    grammars: Grammars | None = None

    @abstractmethod
    def load(self, args: dict[str, str]) -> tuple[EngineCore, EngineModelSettings]:
        """Load the engine that Triton's configuration of the model names.

        Args:
            args: What Triton initializes the model with.

        Returns:
            The engine, and how requests to it are served.
        """

    def initialize(self, args: dict[str, str]) -> None:
        """Load the engine and start the threads."""
        self._engine, self._settings = self.load(args)
        self._compiler = GuideCompiler(self.grammars)
        self._decoupled = is_decoupled(model_config(args))
        pb_utils.Logger.log_info(f"the engine runs on: {self._engine.name}")
        metrics = EngineMetrics(args["model_name"], args["model_version"], self._engine)
        per_s = self._settings.stream_responses_per_s or _RESPONSES_PER_CORE_S * available_cores()
        period_s = self._settings.cancellation_check_period_ms / 1000
        self._outbox = Outbox(per_s, burst=max(per_s // 10, 1))
        # Whoever doesn't stream may have as many responses as if it did, and they are probes.
        prober = Prober(4 * period_s, most=max(int(per_s * period_s), 1))
        self._loop = EngineLoop(self._engine, metrics, self._outbox, prober, period_s)
        self._threads = [
            Thread(target=self._loop.run, name="engine"),
            Thread(target=self._run_sender, name="sender"),
        ]
        for thread in self._threads:
            thread.start()

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> None:
        """Check requests and hand them to the engine."""
        answer_all(requests, self._take, self._loop.stop)

    def finalize(self) -> None:
        """End the threads; what is still running ends as cancelled."""
        self._compiler.close()
        self._loop.end()
        for thread in self._threads:
            thread.join()

    def _take(self, request: pb_utils.InferenceRequest, inputs: Inputs) -> None:
        generation = read_request(
            inputs,
            default_end_ids=self._engine.end_token_ids,
            exclude_input=self._settings.exclude_input_in_output,
        )
        if not self._decoupled:
            check_whole(generation.reporting.streaming, EngineInputs.STREAMING)
            check_single(generation.batch_size, generation.num_return_sequences)
        rows = [
            replace(row, params=self._engine.check(row.prompt, row.params))
            for row in generation.rows
        ]
        waiting = self._loop.num_waiting + self._compiler.num_pending
        too_many = waiting + len(generation.rows) > self._settings.max_queue_size
        if too_many and not generation.is_probe:
            raise ServerBusyError(
                f"the queue is full: {waiting} sequences wait and this request has "
                f"{len(generation.rows)}; max_queue_size is {self._settings.max_queue_size}"
            )
        said = inputs.scalars(EngineInputs.STREAM_CONTEXT, generation.batch_size)
        contexts = said or [b""] * generation.batch_size
        generation = replace(generation, rows=rows)
        guides = {row.guide for row in rows if row.guide is not None}
        if not guides:
            self._begin(request, generation, contexts)
            return
        taken_s = time.monotonic()
        self._compiler.compile(
            guides,
            begin=lambda new: self._begin(
                request, generation, contexts, new, time.monotonic() - taken_s
            ),
            refuse=partial(refuse, request),
        )

    def _begin(
        self,
        request: pb_utils.InferenceRequest,
        generation: GenerationRequest,
        contexts: list[bytes],
        new_guide: NewGuide = no_guide,
        waited_s: float = 0,
    ) -> None:
        """Hand a request that was checked to the engine."""
        # Its sequences share one place in the line of requests, where no tenant is named.
        request_key = object()
        streams = [
            EngineStream(
                row,
                generation.reporting,
                contexts[row.batch_index],
                generation.share,
                request=request_key,
                guide=new_guide(row.guide, row.params),
            )
            for row in generation.rows
        ]
        for stream in streams:
            stream.sequence.is_promoted = generation.is_probe
        self._loop.start(
            Session(
                request,
                streams,
                batch_size=generation.batch_size,
                num_return_sequences=generation.num_return_sequences,
                probes=generation.liveness_probes and self._decoupled,
                timeout_s=generation.timeout_us / 1e6 or math.inf,
                waited_s=waited_s,
            )
        )

    def _run_sender(self) -> None:
        for job in self._outbox:
            try:
                job()
            except Exception as error:  # one client's trouble is not another's
                pb_utils.Logger.log_warn(f"a response could not be sent: {error!r}")
