"""All that runs inside Triton: text, engine, safety, and the models that serve them.

Light on purpose: numpy, onnxruntime, tokenizers, jinja2 and pydantic; never torch, never
transformers.
"""
