"""A real model in 16 bits, off every grid that a tool rounds to, for comparisons of quality.

The model at hand (recipe ``smollm2``) comes rounded to 4-bit blocks. A format that is on the same
grid takes such weights without loss, and any other rounds a second time, which tells nothing of
either. So channels between two products are scaled by random factors, in the one up, in the other
down: the model computes what it did, and its weights are as any that were trained in 16 bits,
between all levels. It is written as GGUF and as a Hugging Face checkpoint, the same numbers.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import dequantize
from numpy.typing import NDArray
from safetensors.numpy import save_file

from benchmarks.peers.worker import GGUF_SOURCE
from build.artifacts.manifest import DigestCache
from build.checkpoint import GGUF_FILE, Checkpoint
from build.from_gguf import unpack
from build.from_gguf.gguf_families import tensors_of
from build.from_gguf.gguf_reader import open_gguf
from build.recipe import load_recipe
from build.sources import with_folder

RECIPE = "smollm2"
_SPREAD = 0.15
"""Of the factors' logarithms. It moves a weight of half the largest magnitude by half the step that
16 levels leave; as many times as much makes rounding harder than training leaves it."""


def make_real_checkpoint(cache: Path) -> Path:
    """Write the checkpoint, unless it is there.

    Args:
        cache: What is fetched and unpacked on the way, as builds keep it.

    Returns:
        The folder.
    """
    folder = cache / "benchmarks" / f"{RECIPE}-16-bit"
    if folder.is_dir():
        return folder
    recipe = with_folder(
        load_recipe(Path(RECIPE)), cache, DigestCache(cache / "digests.json"), print
    )
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    source = partial.with_suffix(".gguf")
    write_scaled(recipe.checkpoint / GGUF_FILE, source)
    unpack(source, partial)
    source.unlink()
    (partial / GGUF_FILE).rename(partial / GGUF_SOURCE)
    file = open_gguf(partial / GGUF_SOURCE)
    with Checkpoint(recipe.checkpoint) as checkpoint:
        tensors = {name: each[:] for name, each in tensors_of(file, checkpoint.config).items()}
    save_file(tensors, partial / "model.safetensors", metadata={"format": "pt"})
    partial.rename(folder)
    return folder


def write_scaled(path: Path, scaled: Path) -> None:
    """A file with other weights that compute the same, matrices in float16."""
    reader = GGUFReader(path)
    fields = {name: each for name, each in reader.fields.items() if not name.startswith("GGUF.")}
    architecture = fields.pop("general.architecture").contents()
    writer = GGUFWriter(scaled, architecture)
    for name, each in fields.items():
        inner = each.types[-1] if each.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(name, each.contents(), each.types[0], inner)
    tensors = {each.name: each for each in reader.tensors}
    factors = _Factors(
        fields[f"{architecture}.attention.head_count"].contents(),
        fields[f"{architecture}.attention.head_count_kv"].contents(),
    )
    for name, tensor in tensors.items():
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        values = factors.scaled(name, values)
        writer.add_tensor(name, values if values.ndim == 1 else values.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class _Factors:
    """Random factors, the same for what writes a channel and what reads it."""

    def __init__(self, num_heads: int, num_kv_heads: int) -> None:
        self._heads = num_heads, num_kv_heads
        self._known: dict[str, NDArray[np.float32]] = {}
        self._rng = np.random.default_rng(0)

    def scaled(self, name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """A tensor of the file with its channels scaled; of a matrix ``[outputs, columns]``."""
        layer, _, part = name.removesuffix(".weight").rpartition(".")
        if part in ("attn_norm", "ffn_norm"):
            return values / self._of(f"{layer}.{part}", values.size)
        if part in ("attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up"):
            norm = "attn_norm" if part.startswith("attn") else "ffn_norm"
            values = values * self._of(f"{layer}.{norm}", values.shape[1])
        if part in ("attn_v", "ffn_up"):
            values = values * self._of(f"{layer}.{part}", values.shape[0])[:, None]
        if part == "attn_output":
            values = values / self._of_heads(f"{layer}.attn_v", values.shape[1])
        if part == "ffn_down":
            values = values / self._of(f"{layer}.ffn_up", values.shape[1])
        return values

    def _of_heads(self, name: str, columns: int) -> NDArray[np.float32]:
        """Of values, for each of the heads that share them."""
        heads, kv_heads = self._heads
        shared = self._of(name, columns // heads * kv_heads).reshape(kv_heads, -1)
        return np.repeat(shared, heads // kv_heads, axis=0).ravel()

    def _of(self, name: str, channels: int) -> NDArray[np.float32]:
        if name not in self._known:
            found = np.exp(self._rng.normal(0, _SPREAD, channels))
            self._known[name] = found.astype(np.float32)
        return self._known[name]
