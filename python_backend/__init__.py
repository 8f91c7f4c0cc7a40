"""All that runs inside Triton: the tensor contract, text, engine and safety.

Light on purpose: numpy, onnxruntime, tokenizers, jinja2 and pydantic; never torch, never
transformers.
"""
