"""The structures that Python and the kernels share, and that both mean the same by them.

The library tells of each where its fields lie (``structures.h``). It is compared when it is loaded:
a field that lay elsewhere would be read as another, and memory with it.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Mapping
from itertools import count, takewhile, zip_longest
from types import NoneType
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar, get_args, get_origin

import numpy as np

from contract.errors import EngineError
from python_backend.engine import layers

_T = TypeVar("_T")

PANEL = 64
"""Outputs that are computed together."""

GROUP = 32
"""Weights of a row that share a scale, where they do, and multiple that inputs are padded to."""

LANES = 16
"""Floats of a vector, and tokens of a block of the KV cache."""

CONSTANTS = {"PANEL": PANEL, "GROUP": GROUP, "LANES": LANES}
"""Numbers that packed weights and the cache are laid out by, by their names in C."""


class Linear(ctypes.Structure):
    """A packed matrix (``linear.h``)."""

    _fields_ = (
        ("storage", ctypes.c_int32),
        ("inputs", ctypes.c_int32),
        ("columns", ctypes.c_int32),
        ("outputs", ctypes.c_int32),
        ("panels", ctypes.c_int32),
        ("levels", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("minima", ctypes.c_void_p),
        ("totals", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
    )


class Packing(ctypes.Structure):
    """How a matrix is packed (``linear.c``)."""

    _fields_ = (
        ("levels", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("middles", ctypes.c_void_p),
        ("storage", ctypes.c_int32),
        ("outputs", ctypes.c_int32),
        ("columns", ctypes.c_int32),
        ("padded", ctypes.c_int32),
        ("every", ctypes.c_int32),
        ("offset", ctypes.c_int32),
        ("to_levels", ctypes.c_void_p),
        ("to_scales", ctypes.c_void_p),
        ("to_minima", ctypes.c_void_p),
        ("to_totals", ctypes.c_void_p),
    )


class Norm(ctypes.Structure):
    """A norm: a function and its weight (``layers.h``)."""

    _fields_ = (
        ("run", ctypes.c_void_p),
        ("weight", ctypes.c_void_p),
        ("eps", ctypes.c_float),
    )


class Part(ctypes.Structure):
    """A part of a layer: a function and the structure of its kind (``layers.h``)."""

    _fields_ = (
        ("run", ctypes.c_void_p),
        ("data", ctypes.c_void_p),
    )


class Layer(ctypes.Structure):
    """One layer (``layers.h``)."""

    _fields_ = (
        ("attention", Part),
        ("feed_forward", Part),
    )


class Decoder(ctypes.Structure):
    """A decoder, and memory for its steps (``layers.h``)."""

    _fields_ = (
        ("num_layers", ctypes.c_int32),
        ("hidden_size", ctypes.c_int32),
        ("embedding_dtype", ctypes.c_int32),
        ("embedding_scale", ctypes.c_float),
        ("logit_softcap", ctypes.c_float),
        ("embedding", ctypes.c_void_p),
        ("embedding_scales", ctypes.c_void_p),
        ("final_norm", Norm),
        ("lm_head", Linear),
        ("layers", ctypes.c_void_p),
        ("residual", ctypes.c_void_p),
        ("normed", ctypes.c_void_p),
        ("qkv", ctypes.c_void_p),
        ("attended", ctypes.c_void_p),
        ("inner", ctypes.c_void_p),
        ("levels", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("sums", ctypes.c_void_p),
        ("offsets", ctypes.c_void_p),
    )


class Step(ctypes.Structure):
    """A step's tokens (``layers.h``)."""

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
        ("qkv", ctypes.c_void_p),
        ("output", ctypes.c_void_p),
        ("cosines", ctypes.c_void_p),
        ("sines", ctypes.c_void_p),
        ("rotary_half", ctypes.c_int32),
        ("num_sequences", ctypes.c_int32),
        ("starts", ctypes.c_void_p),
        ("lengths", ctypes.c_void_p),
        ("rotary_starts", ctypes.c_void_p),
        ("tables", ctypes.c_void_p),
        ("table_width", ctypes.c_int64),
    )


_OF_FIELDS: dict[Any, type[Any]] = {
    int: ctypes.c_int32,
    float: ctypes.c_float,
    layers.Product: Linear,
    layers.Pair: Linear,
    **dict.fromkeys(layers.kinds(layers.Norm), Norm),
}


@functools.cache
def structure_of(description: type[layers.Description]) -> type[ctypes.Structure]:
    """What the kernels are told in place of a description: its fields, in its order.

    Products are packed, norms have their function, what is None is 0 or NULL, and of the words of
    a ``Literal`` it is the number of one among those that the library lists. The kind is not there:
    it is the function that is called.
    """
    fields = [
        (name, _ctype(field.annotation))
        for name, field in description.model_fields.items()
        if name != "kind"
    ]
    return type(description.__name__, (ctypes.Structure,), {"_fields_": fields})


def _ctype(annotation: Any) -> type[Any]:
    if get_origin(annotation) is Literal:
        return ctypes.c_int32
    found = {
        _OF_FIELDS.get(each) or structure_of(each)
        for each in get_args(annotation) or (annotation,)
        if each is not NoneType
    }
    (one,) = found
    return one


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

_NATIVE: tuple[type[ctypes.Structure], ...] = (
    *(Linear, Packing, Norm, Part, Layer, Decoder, Step),
    *map(structure_of, layers.kinds(layers.Attention)),
    *map(structure_of, layers.kinds(layers.FeedForward)),
)
"""Those that only a library with a native decoder has."""

STRUCTURES: dict[str, Mirror] = {
    "Batch": Batch,
    "Heads": structure_of(layers.Heads),
    **{each.__name__: each for each in _NATIVE},
    "Draw": DRAW,
}
"""Every structure that crosses, by its name in C."""

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


def check_structures(
    library: ctypes.CDLL,
    mirrors: Mapping[str, Mirror] = STRUCTURES,
    constants: Mapping[str, int] = CONSTANTS,
) -> None:
    """Compare structures and constants with what the library says of its own.

    Args:
        library: The kernels.
        mirrors: What Python takes the structures for, by their names in C.
        constants: What it takes the constants for, by their names in C.

    Raises:
        EngineError: One differs, and in which field.
    """

    def differs(name: str, theirs: object, ours: object) -> EngineError:
        return EngineError(
            f"{library._name} has another {name} than this version: {theirs or 'nothing'} in "
            f"place of {ours or 'nothing'}"
        )

    for name, number in constants.items():
        found = _symbol(ctypes.c_int32, library, "constant", name).value
        if found != number:
            raise differs(name, found, number)
    is_native = hasattr(library, "trireme_decode")
    for name, mirror in mirrors.items():
        if mirror in _NATIVE and not is_native:
            continue
        theirs, their_bytes = _theirs(library, name)
        ours, our_bytes = _ours(mirror)
        for our, their in zip_longest(ours, theirs):
            if our != their:
                raise differs(name, their, our)
        if our_bytes != their_bytes:
            raise differs(name, f"{their_bytes} bytes", f"{our_bytes} bytes")


def choices(library: ctypes.CDLL, name: str) -> list[str]:
    """What the library knows for a field that is a ``Literal`` in the description.

    Raises:
        EngineError: It has no such field.
    """
    first = _symbol(ctypes.c_char_p, library, "choices", name)
    words = ctypes.cast(ctypes.pointer(first), ctypes.POINTER(ctypes.c_char_p))
    return [word.decode() for word in takewhile(bool, map(words.__getitem__, count()))]


def function(library: ctypes.CDLL, sort: str, kind: str) -> int:
    """The address of what computes a kind of norm, attention or feed-forward.

    Raises:
        EngineError: The library has none.
    """
    try:
        found = getattr(library, f"trireme_{sort}_{kind}")
    except AttributeError:
        raise EngineError(f"{library._name} has no {sort} of the kind {kind!r}") from None
    return ctypes.cast(found, ctypes.c_void_p).value or 0


def _symbol(type_: type[_T], library: ctypes.CDLL, sort: str, name: str) -> _T:
    try:
        return type_.in_dll(library, f"trireme_{sort}_{name}")  # type: ignore[attr-defined]
    except ValueError:
        raise EngineError(f"{library._name} has no {name}, which this version needs") from None


def _theirs(library: ctypes.CDLL, name: str) -> tuple[list[_Field], int]:
    found = _symbol(_TheirStructure, library, "structure", name)
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
