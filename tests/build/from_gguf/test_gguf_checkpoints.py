"""A GGUF file of each family is the checkpoint that it was made of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from gguf import GGUFReader
from gguf.quants import dequantize

from build.checkpoint import GGUF_FILE, Checkpoint
from build.decoder import describe_decoder
from build.from_gguf import unpack
from build.from_gguf.gguf_reader import TYPES, open_gguf
from tests.build.checkpoints import make_checkpoint
from tests.build.from_gguf.gguf_files import write_gguf

_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
# A file holds them as float32.
_LONGROPE = {
    "type": "longrope",
    "short_factor": [1.0, 1.125, 1.25, 1.375],
    "long_factor": [1.5, 2.0, 4.0, 8.0],
    "attention_factor": 1.25,
}
KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama-untied": {},
    "llama3-scaling": {"rope_scaling": _LLAMA3, "rope_theta": 500_000.0},
    "qwen2": {},
    "qwen3": {},
    "phi3": {},
    "phi3-long": {"rope_scaling": _LONGROPE},
    "gemma2": {"query_pre_attn_scalar": 32},
    "smollm3": {"no_rope_layer_interval": 4, "num_hidden_layers": 4},
}


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_decoder_that_it_was_made_of(tmp_path: Path, kind: str) -> None:
    file, folder = tmp_path / "tiny.gguf", tmp_path / "unpacked"
    _, tensors = write_gguf(file, kind, **KINDS[kind])
    unpack(file, folder)
    folder_of_it = make_checkpoint(tmp_path / "original", kind, **KINDS[kind])
    with Checkpoint(folder) as found, Checkpoint(folder_of_it) as original:
        same = describe_decoder(found)
        # Settings may say in so many words what follows from others.
        expected = describe_decoder(original)
        assert same == replace(expected, settings=same.settings, notes=same.notes)
        assert found.names() == sorted(tensors)
        for name, values in tensors.items():
            assert found.dtype(name) == np.float32
            np.testing.assert_allclose(found.tensor(name), values, rtol=1e-6)


def test_matrices_are_read_by_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("build.checkpoint._BLOCK_BYTES", 10 * 64 * 4)
    file, folder = tmp_path / "tiny.gguf", tmp_path / "unpacked"
    _, tensors = write_gguf(file)
    unpack(file, folder)
    name = "model.layers.1.self_attn.q_proj.weight"
    with Checkpoint(folder) as found:
        blocks = list(found.blocks(name))
        assert len(blocks) == 7
        np.testing.assert_array_equal(np.concatenate(blocks), tensors[name])
        np.testing.assert_array_equal(
            np.concatenate(list(found.blocks(name, range(7, 30)))), tensors[name][7:30]
        )


@pytest.mark.parametrize("stored", [Type.F16, Type.BF16], ids=lambda kind: kind.name)
def test_16_bits_stay_16_bits(tmp_path: Path, stored: Type) -> None:
    file, folder = tmp_path / "tiny.gguf", tmp_path / "unpacked"
    _, tensors = write_gguf(file, stored=stored)
    unpack(file, folder)
    name = "model.layers.0.mlp.up_proj.weight"
    with Checkpoint(folder) as found:
        dtype = found.dtype(name)
        assert dtype.itemsize == 2
        assert found.tensor(name).dtype == dtype
        np.testing.assert_array_equal(found.tensor(name), tensors[name].astype(dtype))


_QUANTIZED = [each for each in TYPES if each not in (Type.F32, Type.F16, Type.BF16)]


@pytest.mark.parametrize("stored", _QUANTIZED, ids=lambda kind: kind.name)
def test_blocks_are_read_as_the_library_reads_them(tmp_path: Path, stored: Type) -> None:
    """The library is held against llama.cpp by its own tests."""
    file, folder = tmp_path / "tiny.gguf", tmp_path / "unpacked"
    write_gguf(file, stored=stored, hidden_size=256, intermediate_size=256)
    unpack(file, folder)
    part = next(each for each in GGUFReader(file).tensors if each.name == "blk.0.ffn_up.weight")
    with Checkpoint(folder) as found:
        values = found.tensor("model.layers.0.mlp.up_proj.weight")
    assert values.shape == (256, 256)
    assert np.isfinite(values).all()
    assert values.std() > 0
    np.testing.assert_array_equal(values, dequantize(part.data, stored))


def test_a_file_is_read_once_by_whatever_name(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    write_gguf(file)
    unpack(file, tmp_path / "unpacked")
    assert open_gguf(tmp_path / "unpacked" / GGUF_FILE) is open_gguf(file)
    write_gguf(file, settings={"general.name": "another"})
    assert open_gguf(file).get("general.name", str) == "another"
