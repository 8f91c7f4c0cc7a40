"""A library that means other structures than Python is refused when it is loaded."""

from __future__ import annotations

import ctypes
from typing import Any, get_args

import numpy as np
import pytest

from contract.errors import EngineError
from python_backend.engine import kernels, layers
from python_backend.engine.kernels import load_kernels, structures
from python_backend.engine.kernels.structures import (
    CONSTANTS,
    STRUCTURES,
    Norm,
    check_structures,
    choices,
    function,
    structure_of,
)

FIELDS = list(Norm._fields_)


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    loaded = load_kernels(1)
    assert loaded is not None, "these tests need kernels"
    return loaded


def mirror(*fields: tuple[str, type]) -> type[ctypes.Structure]:
    return type("Mirror", (ctypes.Structure,), {"_fields_": fields})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (FIELDS[:-1], r"eps \(float, 4 bytes at 16\) in place of nothing"),
        ([*FIELDS, ("more", ctypes.c_int32)], r"nothing in place of more \(int32, 4 bytes at 20\)"),
        ([FIELDS[1], FIELDS[0], FIELDS[2]], r"run \(.* in place of weight \("),
        (
            [*FIELDS[:2], ("eps", ctypes.c_int32)],
            r"eps \(float, 4 bytes at 16\) in place of eps \(int32, 4 bytes at 16\)",
        ),
        (
            [*FIELDS[:2], ("eps", ctypes.c_double)],
            r"eps \(float, .* in place of eps \(double, 8 bytes at 16\)",
        ),
        (
            [FIELDS[0], ("kind", ctypes.c_int32), *FIELDS[1:]],
            r"weight \(other, 8 bytes at 8\) in place of kind \(int32, 4 bytes at 8\)",
        ),
    ],
)
def test_a_field_that_differs_is_named(
    library: ctypes.CDLL, fields: list[tuple[str, type]], message: str
) -> None:
    with pytest.raises(EngineError, match=r"\.so has another Norm than this version: " + message):
        check_structures(library, {"Norm": mirror(*fields)})


def test_so_is_one_of_numpys(library: ctypes.CDLL) -> None:
    formats = [structures.DRAW[name] for name in structures.DRAW.names or ()]
    formats[3] = np.dtype(np.float32)
    other = np.dtype({"names": list(structures.DRAW.names or ()), "formats": formats})
    with pytest.raises(EngineError, match=r"another Draw .*: top_k \(int32, .* of top_k \(float"):
        check_structures(library, {"Draw": other})


def test_a_structure_that_is_longer_is_refused(library: ctypes.CDLL) -> None:
    longer = np.dtype(
        {
            "names": list(structures.DRAW.names or ()),
            "formats": [structures.DRAW[name] for name in structures.DRAW.names or ()],
            "itemsize": 40,
        }
    )
    with pytest.raises(EngineError, match="another Draw than this version: 32 bytes in place of"):
        check_structures(library, {"Draw": longer})


def test_what_the_library_lacks_is_named(library: ctypes.CDLL) -> None:
    with pytest.raises(EngineError, match="has no Experts, which this version needs"):
        check_structures(library, {"Experts": Norm})
    with pytest.raises(EngineError, match="has no feed_forward of the kind 'experts'"):
        function(library, "feed_forward", "experts")
    with pytest.raises(EngineError, match="has no flavour, which this version needs"):
        choices(library, "flavour")


def test_every_structure_and_constant_is_checked_when_the_library_is_loaded(
    library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed: list[tuple[dict[str, Any], str, Any]] = [
        *((CONSTANTS, name, 5) for name in CONSTANTS),
        *((STRUCTURES, name, mirror(("other", ctypes.c_int64))) for name in STRUCTURES),
    ]
    for mapping, name, value in changed:
        with monkeypatch.context() as patch:
            patch.setitem(mapping, name, value)
            with pytest.raises(EngineError, match=f"another {name} than"):
                kernels._check.__wrapped__(library)


SORTS = {"norm": layers.Norm, "attention": layers.Attention, "feed_forward": layers.FeedForward}


@pytest.mark.parametrize("sort", SORTS)
def test_every_kind_that_can_be_described_can_be_computed(library: ctypes.CDLL, sort: str) -> None:
    for each in layers.kinds(SORTS[sort]):
        assert function(library, sort, each.model_fields["kind"].default)
        assert STRUCTURES["Norm" if sort == "norm" else each.__name__]


def test_so_can_every_word_of_a_description(library: ctypes.CDLL) -> None:
    assert choices(library, "activation") == list(get_args(layers.Activation))


def test_a_structure_follows_from_the_description() -> None:
    names = [name for name, _ in structure_of(layers.GatedFeedForward)._fields_]  # type: ignore[misc]
    assert names == ["norm", "output_norm", "activation", "gate_up", "down"]
    heads = structure_of(layers.Heads)
    assert ("scale", ctypes.c_float) in heads._fields_
    assert ("logit_softcap", ctypes.c_float) in heads._fields_
    assert ("window", ctypes.c_int32) in heads._fields_
