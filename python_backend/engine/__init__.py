"""The ONNX Runtime engine behind the ``tensorrt_llm`` model: scheduler, KV cache, runner, sampler."""
