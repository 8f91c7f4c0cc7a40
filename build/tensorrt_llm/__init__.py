"""TensorRT-LLM as a target: quantized checkpoints, and the command that builds engines of them."""
