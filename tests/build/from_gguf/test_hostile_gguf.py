"""What is said of GGUF files that can't be built from."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from gguf import GGMLQuantizationType as Type
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from build.build_errors import CheckpointError
from build.checkpoint import Checkpoint
from build.from_gguf import unpack
from tests.build.from_gguf.gguf_files import write_gguf
from tests.examples import examples

FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "architecture": ({"general.architecture": "mamba"}, "of the architecture 'mamba'"),
    "a part": ({"split.count": 3}, "one of several parts"),
    "unknown setting": ({"llama.expert_count": 8}, "llama.expert_count, which is not known"),
    "no heads": ({"llama.attention.head_count": 0}, "head_count is 0"),
    "heads as text": ({"llama.attention.head_count": "4"}, "'4', no int"),
    "two sizes of heads": ({"llama.attention.value_length": 8}, "have different sizes"),
    "scaling": ({"llama.rope.scaling.type": "magic"}, "is 'magic', not known"),
    "scaling without a factor": ({"llama.rope.scaling.type": "yarn"}, "no llama.rope.scaling"),
    "split": ({"tokenizer.ggml.pre": "klingon"}, "'klingon', which is not known"),
    "tokenizer": ({"tokenizer.ggml.model": "rwkv"}, "'rwkv', not gpt2 or llama"),
    "merges": ({"tokenizer.ggml.merges": ["ab"]}, "'ab', no pair"),
    "merges of nothing": ({"tokenizer.ggml.merges": ["a zzz"]}, "no usable tokenizer"),
    "merges of numbers": ({"tokenizer.ggml.merges": [1, 2]}, "holds 1, no str"),
    "kinds": ({"tokenizer.ggml.token_type": [1, 1]}, "has 2 entries, not 101"),
    "the same twice": ({"tokenizer.ggml.tokens": ["a", "a"]}, "tokens 0 and 1 are the same"),
    "end": ({"tokenizer.ggml.eos_token_id": 5000}, "is 5000, not below 101"),
}


@pytest.mark.parametrize(("fault", "said"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_named(tmp_path: Path, fault: dict[str, Any], said: str) -> None:
    file = tmp_path / "tiny.gguf"
    kinds = {"tokenizer.ggml.token_type": [1, 1]} if "tokenizer.ggml.tokens" in fault else {}
    write_gguf(file, settings=kinds | fault)
    with pytest.raises(CheckpointError, match=said):
        unpack(file, tmp_path / "unpacked")


@pytest.mark.parametrize(
    "name", ["llama.block_count", "tokenizer.ggml.tokens", "tokenizer.ggml.model"]
)
def test_what_is_missing_is_named(tmp_path: Path, name: str) -> None:
    file = tmp_path / "tiny.gguf"
    write_gguf(file, leave_out=(name,))
    with pytest.raises(CheckpointError, match=f"has no {name}"):
        unpack(file, tmp_path / "unpacked")


def test_a_kind_of_blocks_that_is_not_read_is_named(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    write_gguf(file, stored=Type.TQ1_0, hidden_size=256, intermediate_size=256)
    with pytest.raises(CheckpointError, match="as TQ1_0; what is read: F32, F16, BF16, Q8_0"):
        unpack(file, tmp_path / "unpacked")


@pytest.mark.parametrize("content", [b"", b"GG", b"GGUF", b"PK\x03\x04" * 9, b"FUGG" * 9])
def test_another_file_is_none(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "tiny.gguf"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"no GGUF file|truncated or damaged"):
        unpack(file, tmp_path / "unpacked")
    assert not (tmp_path / "unpacked").exists()


def _header(kind: int, count: int, entries: bytes = b"", name: bytes = b"llama.x") -> bytes:
    """A header with one setting: a list."""
    start = b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, len(name)) + name
    return start + struct.pack("<IIQ", 9, kind, count) + entries


@pytest.mark.parametrize(
    ("content", "said"),
    {
        "tensors": (b"GGUF" + struct.pack("<IQQ", 3, 1 << 58, 0), "tensors and 0 settings"),
        "settings": (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 58), "0 tensors and 2882303"),
        "numbers": (_header(0, 1 << 58), "lists hold more than"),
        "numbers that the file lacks": (_header(10, 1 << 20), "where 0 are left"),
        "texts": (_header(8, 1 << 20), "8 bytes are named where 0 are left"),
        "a text": (_header(8, 1, struct.pack("<Q", 1 << 62)), "where 0 are left"),
        "lists in lists": (_header(9, 1, struct.pack("<IQ", 9, 1) * 9), "of the kind 9"),
        "a kind that there is not": (_header(13, 1, b"1234"), "of the kind 13"),
        "another version": (b"GGUF" + struct.pack("<IQQ", 7, 0, 0), "of version 7"),
        "another byte order": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "of other processors"),
    }.values(),
)
def test_a_header_that_names_more_than_the_file_holds(
    tmp_path: Path, content: bytes, said: str
) -> None:
    """The library believes it, and takes memory for each entry until the machine has none."""
    file = tmp_path / "tiny.gguf"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=said):
        unpack(file, tmp_path / "unpacked")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(file, stored=Type.Q8_0)
    return file.read_bytes()


@given(
    st.none() | st.floats(0, 1),
    st.lists(st.tuples(st.integers(0, 6000), st.integers(0, 255)), max_size=6),
)
@settings(max_examples=examples(40), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_is_an_error_or_another_model(
    tmp_path_factory: pytest.TempPathFactory,
    whole: bytes,
    cut: float | None,
    places: list[tuple[int, int]],
) -> None:
    """No damage makes anything else than a checkpoint or its own error."""
    content = bytearray(whole)
    for place, value in places:
        content[place] = value
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "tiny.gguf").write_bytes(content[: None if cut is None else int(cut * len(whole))])
    try:
        unpack(folder / "tiny.gguf", folder / "unpacked")
        with Checkpoint(folder / "unpacked") as checkpoint:
            for name in checkpoint.names():
                checkpoint.tensor(name)
    except CheckpointError:
        pass
