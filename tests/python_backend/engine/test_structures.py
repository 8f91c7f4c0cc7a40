"""A library whose structures are not ours is refused when it is loaded, and the field is named."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from contract.errors import EngineError
from python_backend.engine import kernels
from python_backend.engine.kernels import load_kernels, structures
from python_backend.engine.kernels.structures import STRUCTURES, Linear, check_structures

FIELDS = list(Linear._fields_)


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    loaded = load_kernels(1)
    assert loaded is not None, "these tests need a C compiler"
    return loaded


def mirror(*fields: tuple[str, type]) -> type[ctypes.Structure]:
    return type("Linear", (ctypes.Structure,), {"_fields_": fields})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (FIELDS[:-1], r"bias \(other, 8 bytes at 40\) in place of nothing"),
        ([*FIELDS, ("more", ctypes.c_int32)], r"nothing in place of more \(int32, 4 bytes at 48\)"),
        ([FIELDS[1], FIELDS[0], *FIELDS[2:]], r"bits \(.* in place of columns \("),
        (
            [("bits", ctypes.c_float), *FIELDS[1:]],
            r"bits \(int32, 4 bytes at 0\) in place of bits \(float, 4 bytes at 0\)",
        ),
        (
            [("bits", ctypes.c_int64), *FIELDS[1:]],
            r"bits \(int32, .* in place of bits \(int64, 8 bytes at 0\)",
        ),
        (
            [*FIELDS[:3], ("padding", ctypes.c_int32), *FIELDS[3:]],
            r"levels \(other, 8 bytes at 16\) in place of padding \(int32, 4 bytes at 12\)",
        ),
    ],
)
def test_a_field_that_differs_is_named(
    library: ctypes.CDLL, fields: list[tuple[str, type]], message: str
) -> None:
    with pytest.raises(EngineError, match=r"\.so has another Linear than this version: " + message):
        check_structures(library, {"Linear": mirror(*fields)})


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
    with pytest.raises(
        EngineError, match="another Draw than this version: 32 bytes in place of 40"
    ):
        check_structures(library, {"Draw": longer})


def test_a_structure_that_the_library_lacks_is_named(library: ctypes.CDLL) -> None:
    with pytest.raises(EngineError, match="has no Experts, which this version needs"):
        check_structures(library, {"Experts": Linear})


def test_every_structure_is_checked_when_the_library_is_loaded(
    library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in STRUCTURES:
        with monkeypatch.context() as patch:
            patch.setitem(STRUCTURES, name, mirror(("other", ctypes.c_int64)))
            with pytest.raises(EngineError, match=f"another {name} than"):
                kernels._load.__wrapped__(library._name)
