"""GGUF files as checkpoints: one file that holds weights, settings, tokenizer and chat template.

Source of the format: ggml's ``docs/gguf.md``. It is read by the ``gguf`` library; here is what the
families' tensors and settings are called there, and what llama.cpp does to them when it writes.
"""

from build.from_gguf.unpack import is_gguf, unpack

__all__ = ["is_gguf", "unpack"]
