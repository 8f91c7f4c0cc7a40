"""OpenVINO GenAI's continuous batching pipeline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino
import openvino_genai

from benchmarks.peers.worker import KV_CACHE_GIB, Options, available_cores, main


class OpenVino:
    """The pipeline that OpenVINO Model Server serves with, called in process."""

    def __init__(self, model: Path, precision: str) -> None:
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = KV_CACHE_GIB
        scheduler.enable_prefix_caching = True
        scheduler.dynamic_split_fuse = True
        scheduler.max_num_batched_tokens = 512
        properties = {"INFERENCE_NUM_THREADS": available_cores(), "PERFORMANCE_HINT": "LATENCY"}
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

    def generate(self, prompts: list[list[int]], output_tokens: int) -> list[int]:
        """Continue all prompts by ``output_tokens``."""
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = output_tokens
        config.ignore_eos = True
        config.do_sample = False
        tensors = [openvino.Tensor(np.array([prompt], dtype=np.int64)) for prompt in prompts]
        results = self._pipeline.generate(tensors, [config] * len(prompts))
        return [len(result.m_generation_ids[0]) for result in results]


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
