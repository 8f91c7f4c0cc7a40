"""Triton loads this as ``tensorrt_llm``: a stand-in for TensorRT-LLM's C++ backend.

It "generates" its prompt's own tokens, from the second on, and sends what the C++ backend sends and
no more: the tokens without the end token, their number, and the indices where a request has several
sequences. Its last response does not look like the last. A request ends by its id, with a second
one that has ``stop``. It logs whether that came, and the ids it was given. While the file ``hold``
lies beside its log, nothing else ends.
"""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    """Echoes prompts, a few tokens at a time."""

    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        self.log = Path(parameters["log"]["string_value"])
        self.hold = self.log.with_name("hold")
        self.stopped = set()

    def execute(self, requests):
        for request in requests:
            request_id = request.request_id()
            if self.scalar(request, "stop", False):
                self.stopped.add(request_id)
                request.get_response_sender().send(pb_utils.InferenceResponse([]), FINAL)
                continue
            ids = pb_utils.get_input_tensor_by_name(request, "input_ids").as_numpy()
            lengths = pb_utils.get_input_tensor_by_name(request, "input_lengths").as_numpy()
            limit = pb_utils.get_input_tensor_by_name(request, "request_output_len").as_numpy()
            assert self.scalar(request, "exclude_input_in_output", False)
            copies = self.scalar(request, "num_return_sequences", 1)
            streaming = self.scalar(request, "streaming", False)
            rows = [
                row[1:length].tolist()[:most]
                for row, length, most in zip(ids, lengths.flat, limit.flat, strict=True)
            ]
            sender = request.get_response_sender()
            run = (request_id, sender, rows, copies, streaming)
            Thread(target=self.generate, args=run, daemon=True).start()

    def scalar(self, request: Any, name: str, default: Any) -> Any:
        tensor = pb_utils.get_input_tensor_by_name(request, name)
        return default if tensor is None else tensor.as_numpy().flat[0].item()

    def generate(self, request_id, sender, rows, copies, streaming):
        sequences = [(row, copy) for row in range(len(rows)) for copy in range(copies)]
        sent = dict.fromkeys(sequences, 0)
        open_ = set(sequences)
        while open_:
            time.sleep(0.002)
            for row, copy in random.sample(sorted(open_), len(open_)):
                tokens = rows[row]
                step = random.randint(1, 3) if streaming else len(tokens)
                piece = tokens[sent[row, copy] : sent[row, copy] + step]
                sent[row, copy] += len(piece)
                whole = sent[row, copy] >= len(tokens)
                if request_id in self.stopped or (whole and not self.hold.exists()):
                    open_.discard((row, copy))
                elif not piece:
                    continue
                outputs = {
                    "output_ids": np.array([[piece]], dtype=np.int32).reshape(1, 1, -1),
                    "sequence_length": np.array([[len(piece)]], dtype=np.int32),
                }
                if len(rows) > 1:
                    outputs["batch_index"] = np.array([[row]], dtype=np.int32)
                if copies > 1:
                    outputs["sequence_index"] = np.array([[copy]], dtype=np.int32)
                tensors = [pb_utils.Tensor(name, array) for name, array in outputs.items()]
                sender.send(pb_utils.InferenceResponse(tensors), 0 if open_ else FINAL)
        with self.log.open("a") as log:
            run = {"id": request_id, "stopped": request_id in self.stopped}
            log.write(json.dumps(run) + "\n")
