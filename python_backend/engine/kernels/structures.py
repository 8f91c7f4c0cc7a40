"""The structures that Python and the kernels share, and that both mean the same by them.

The library tells of each where its fields lie (``structures.h``). It is compared when it is loaded:
a field that lay elsewhere would be read as another, and memory with it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from itertools import zip_longest
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from contract.errors import EngineError


class Linear(ctypes.Structure):
    """A packed matrix (``linear.h``)."""

    _fields_ = (
        ("bits", ctypes.c_int32),
        ("columns", ctypes.c_int32),
        ("panels", ctypes.c_int32),
        ("levels", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("zeros", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
    )


class Packing(ctypes.Structure):
    """How a matrix is packed (``linear.c``)."""

    _fields_ = (
        ("levels", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("zeros", ctypes.c_void_p),
        ("bits", ctypes.c_int32),
        ("outputs", ctypes.c_int32),
        ("columns", ctypes.c_int32),
        ("padded", ctypes.c_int32),
        ("every", ctypes.c_int32),
        ("offset", ctypes.c_int32),
        ("to_levels", ctypes.c_void_p),
        ("to_scales", ctypes.c_void_p),
        ("to_zeros", ctypes.c_void_p),
    )


class Layer(ctypes.Structure):
    """One layer's weights (``decoder.c``)."""

    _fields_ = (
        ("attention_norm", ctypes.c_void_p),
        ("qkv", Linear),
        ("q_norm", ctypes.c_void_p),
        ("k_norm", ctypes.c_void_p),
        ("attention_output", Linear),
        ("post_attention_norm", ctypes.c_void_p),
        ("mlp_norm", ctypes.c_void_p),
        ("gate_up", Linear),
        ("down", Linear),
        ("post_mlp_norm", ctypes.c_void_p),
    )


class Decoder(ctypes.Structure):
    """A decoder, and memory for its steps (``decoder.c``)."""

    _fields_ = (
        ("num_layers", ctypes.c_int32),
        ("hidden_size", ctypes.c_int32),
        ("intermediate_size", ctypes.c_int32),
        ("vocab_size", ctypes.c_int32),
        ("activation", ctypes.c_int32),
        ("embedding_dtype", ctypes.c_int32),
        ("norm_eps", ctypes.c_float),
        ("embedding_scale", ctypes.c_float),
        ("logit_softcap", ctypes.c_float),
        ("embedding", ctypes.c_void_p),
        ("final_norm", ctypes.c_void_p),
        ("lm_head", Linear),
        ("layers", ctypes.c_void_p),
        ("residual", ctypes.c_void_p),
        ("normed", ctypes.c_void_p),
        ("qkv", ctypes.c_void_p),
        ("attended", ctypes.c_void_p),
        ("gated", ctypes.c_void_p),
        ("levels", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("sums", ctypes.c_void_p),
    )


class Step(ctypes.Structure):
    """A step's tokens (``decoder.c``)."""

    _fields_ = (
        ("num_tokens", ctypes.c_int32),
        ("num_rows", ctypes.c_int32),
        ("ids", ctypes.c_void_p),
        ("rows", ctypes.c_void_p),
        ("logits", ctypes.c_void_p),
    )


class Batch(ctypes.Structure):
    """What attention is told of a step (``attention.h``)."""

    _fields_ = (
        ("blocks", ctypes.c_void_p),
        ("block_stride", ctypes.c_int64),
        ("layer_stride", ctypes.c_int64),
        ("kv_bits", ctypes.c_int32),
        ("smoothing", ctypes.c_void_p),
        ("num_heads", ctypes.c_int32),
        ("num_kv_heads", ctypes.c_int32),
        ("head_dim", ctypes.c_int32),
        ("scale", ctypes.c_float),
        ("qkv", ctypes.c_void_p),
        ("output", ctypes.c_void_p),
        ("cosines", ctypes.c_void_p),
        ("sines", ctypes.c_void_p),
        ("rotary_half", ctypes.c_int32),
        ("softcap", ctypes.c_float),
        ("windows", ctypes.c_void_p),
        ("turned", ctypes.c_void_p),
        ("num_sequences", ctypes.c_int32),
        ("starts", ctypes.c_void_p),
        ("lengths", ctypes.c_void_p),
        ("tables", ctypes.c_void_p),
        ("table_width", ctypes.c_int64),
    )


DRAW = np.dtype(
    [
        ("top_p", np.float64),
        ("random", np.float64),
        ("inverse_temperature", np.float32),
        ("top_k", np.int32),
        ("least_weight", np.int32),
        ("padding", np.int32),
    ]
)
"""How a row's token is drawn (``Draw`` in ``sampling.c``); ``selection.py`` says what it means."""

Mirror: TypeAlias = "type[ctypes.Structure] | np.dtype[Any]"

STRUCTURES: dict[str, Mirror] = {
    **{each.__name__: each for each in (Linear, Packing, Layer, Decoder, Step, Batch)},
    "Draw": DRAW,
}
"""Every structure that crosses, by its name in C."""

_NATIVE = {"Linear", "Packing", "Layer", "Decoder", "Step"}
"""Those that only a library with a native decoder has."""

_TYPES = {
    ctypes.c_int32: "int32",
    ctypes.c_int64: "int64",
    ctypes.c_float: "float",
    ctypes.c_double: "double",
    np.dtype(np.int32): "int32",
    np.dtype(np.float32): "float",
    np.dtype(np.float64): "double",
}


class _Field(NamedTuple):
    """Where a field lies in a structure, in bytes."""

    name: str
    type: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.name} ({self.type}, {self.size} bytes at {self.offset})"


class _TheirField(ctypes.Structure):
    """``TriremeField`` in ``structures.h``."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("type", ctypes.c_char_p),
        ("offset", ctypes.c_int32),
        ("size", ctypes.c_int32),
    )


class _TheirStructure(ctypes.Structure):
    """``TriremeStructure`` in ``structures.h``."""

    _fields_ = (
        ("size", ctypes.c_int32),
        ("num_fields", ctypes.c_int32),
        ("fields", ctypes.POINTER(_TheirField)),
    )


def check_structures(library: ctypes.CDLL, mirrors: Mapping[str, Mirror] = STRUCTURES) -> None:
    """Compare structures with what the library says of its own.

    Args:
        library: The kernels.
        mirrors: What Python takes the structures for, by their names in C.

    Raises:
        EngineError: One differs, and in which field.
    """
    native = hasattr(library, "trireme_decode")
    for name, mirror in mirrors.items():
        if name in _NATIVE and not native:
            continue
        theirs, their_bytes = _theirs(library, name)
        ours, our_bytes = _ours(mirror)
        for our, their in zip_longest(ours, theirs):
            if our != their:
                raise EngineError(
                    f"{library._name} has another {name} than this version: "
                    f"{their or 'nothing'} in place of {our or 'nothing'}"
                )
        if our_bytes != their_bytes:
            raise EngineError(
                f"{library._name} has another {name} than this version: "
                f"{their_bytes} bytes in place of {our_bytes}"
            )


def _theirs(library: ctypes.CDLL, name: str) -> tuple[list[_Field], int]:
    try:
        found = _TheirStructure.in_dll(library, f"trireme_structure_{name}")
    except ValueError:
        raise EngineError(f"{library._name} has no {name}, which this version needs") from None
    fields = [
        _Field(each.name.decode(), each.type.decode(), each.offset, each.size)
        for each in found.fields[: found.num_fields]
    ]
    return fields, found.size


def _ours(mirror: Mirror) -> tuple[list[_Field], int]:
    fields = []
    if isinstance(mirror, np.dtype):
        for name in mirror.names or ():
            dtype, offset = mirror[name], mirror.fields[name][1]  # type: ignore[index]
            fields.append(_Field(name, _TYPES[dtype], offset, dtype.itemsize))
        return fields, mirror.itemsize
    for name, type_ in mirror._fields_:  # type: ignore[misc]
        place = getattr(mirror, name)
        fields.append(_Field(name, _TYPES.get(type_, "other"), place.offset, place.size))
    return fields, ctypes.sizeof(mirror)
