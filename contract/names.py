"""The words that travel between clients, the gateway and the models."""

from __future__ import annotations

from typing import Literal

from contract.codes import FinishReason

Engine = Literal["onnx", "tensorrt_llm"]
"""What runs the ``tensorrt_llm`` model of the ensemble: Trireme's ONNX engine in the Python
backend, or TensorRT-LLM's engine in NVIDIA's C++ backend."""

PREPROCESSING = "preprocessing"
TENSORRT_LLM = "tensorrt_llm"
TENSORRT_LLM_ADAPTER = "tensorrt_llm_adapter"
POSTPROCESSING = "postprocessing"
ENSEMBLE = "ensemble"

ENGINE_FINISH_REASONS: tuple[FinishReason, ...] = ("stop", "length", "cancelled")
"""Values of the engine's ``finish_reason``: ended by itself, out of tokens, client went away. The
ensemble's may be any of the contract's: where the text path ended it."""

SAFETY_POLICY = "safety_policy"
CHAT_TEMPLATE = "chat_template"
ADD_SPECIAL_TOKENS = "add_special_tokens"
REQUEST_PARAMETERS = (SAFETY_POLICY, CHAT_TEMPLATE, ADD_SPECIAL_TOKENS)
"""What a request says beside its inputs, in Triton's request parameters."""

SHARE = "share"
"""The request parameter that says whose share of the engine it takes: a tenant's name."""
PROBE = "probe"
"""The request parameter of one that only looks whether tokens are made, and waits behind nobody."""

PRIORITY_LEVELS = 5
DEFAULT_PRIORITY = 3
"""``priority`` is Triton's: from 1, the most urgent, to the number of levels; 0 is the default."""
