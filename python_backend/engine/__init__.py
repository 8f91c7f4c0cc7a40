"""The ONNX Runtime engine behind ``tensorrt_llm``: scheduler, KV cache, runner and sampler."""
