"""All that runs inside Triton: text, engine, safety, and the models that serve them.

Light on purpose: numpy, onnxruntime, tokenizers, jinja2 and pydantic; never torch, never
transformers.
"""

import os

# From 1.29 on ONNX Runtime tells its makers of the machine, the process and the model, beginning as
# it is imported; so this comes first. Who wants that sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
