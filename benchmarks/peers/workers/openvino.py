"""OpenVINO GenAI's continuous batching pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai
from numpy.typing import NDArray

from benchmarks.peers.worker import KV_CACHE_GIB, Options, answered, available_cores, main


class OpenVino:
    """The pipeline that OpenVINO Model Server serves with, called in process."""

    def __init__(self, model: Path, precision: str) -> None:
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = KV_CACHE_GIB
        scheduler.enable_prefix_caching = True
        scheduler.dynamic_split_fuse = True
        scheduler.max_num_batched_tokens = 512
        properties = {"INFERENCE_NUM_THREADS": available_cores(), "PERFORMANCE_HINT": "LATENCY"}
        self._model = model
        self._predicting: Any = None
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(
            str(model), scheduler, "CPU", properties
        )
        self.settings = {
            "weights": precision,
            "cache_size": scheduler.cache_size,
            "enable_prefix_caching": scheduler.enable_prefix_caching,
            "dynamic_split_fuse": scheduler.dynamic_split_fuse,
            "max_num_batched_tokens": scheduler.max_num_batched_tokens,
            **properties,
            "KV cache": "the CPU plugin's default (u8)",
        }

    def generate(
        self, prompts: list[list[int]], output_tokens: int, end_ids: Sequence[int] = ()
    ) -> list[int]:
        """Continue all prompts by ``output_tokens``, or to an end."""
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = output_tokens
        config.min_new_tokens = 0 if end_ids else output_tokens
        config.ignore_eos = not end_ids
        config.stop_token_ids = set(end_ids)
        config.do_sample = False
        tensors = [openvino.Tensor(np.array([prompt], dtype=np.int64)) for prompt in prompts]
        results = self._pipeline.generate(tensors, [config] * len(prompts))
        return [answered(result.m_generation_ids[0], end_ids) for result in results]

    def logits(self, tokens: list[int], rows: int) -> NDArray[np.float32]:
        """What the same model predicts, compiled by the same plugin for one text at a time.

        The pipeline gives no logits. What differs is attention: not over pages of a cache.
        """
        if self._predicting is None:
            compiled = openvino.Core().compile_model(
                str(self._model / "openvino_model.xml"),
                "CPU",
                {"INFERENCE_NUM_THREADS": available_cores(), "PERFORMANCE_HINT": "LATENCY"},
            )
            self._predicting = compiled.create_infer_request()
        self._predicting.reset_state()
        ids = np.array([tokens], dtype=np.int64)
        inputs = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "position_ids": np.arange(ids.shape[1], dtype=np.int64)[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        found = self._predicting.infer(inputs)["logits"]
        return np.ascontiguousarray(found[0, -rows:], dtype=np.float32)


def build(checkpoint: Path, model: Path, options: Options) -> None:
    """Export the checkpoint with compressed weights, as Optimum's command line does."""
    from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig

    config = {
        "int8": OVWeightQuantizationConfig(bits=8, sym=False),
        "int4": OVWeightQuantizationConfig(bits=4, sym=False, group_size=32, ratio=1.0),
    }[options["precision"]]
    exported = OVModelForCausalLM.from_pretrained(
        checkpoint, export=True, quantization_config=config, use_cache=True
    )
    exported.save_pretrained(model)


def load(model: Path, options: Options) -> OpenVino:
    """Compile the model for this processor."""
    return OpenVino(model, options["precision"])


if __name__ == "__main__":
    main(build, load, ("openvino", "openvino-genai", "optimum-intel", "nncf"))
