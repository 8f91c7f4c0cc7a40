"""Which tiles compute is chosen at run time, and doesn't show in what they compute."""

from __future__ import annotations

import ctypes
import os
import shutil
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from python_backend.engine.kernels import load_kernels
from python_backend.engine.kernels.structures import Linear, Packing, choices
from tests.python_backend.engine import instruction_sets

STORAGES = ("int8", "int8_block", "int4")
"""In the order of ``Storage`` in linear.h."""
PANEL = 64
COLUMNS = 96
PANELS = 3
MOST_ROWS = 40

_Ask = ctypes.CFUNCTYPE(ctypes.c_int)
_Start = ctypes.CFUNCTYPE(None)


class _TileSet(ctypes.Structure):
    """Mirrors ``TileSet`` in tiles.h."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("is_usable", _Ask),
        ("start_thread", _Start),
        ("least_rows", ctypes.c_int),
        ("most_rows", ctypes.c_int),
        ("tiles", ctypes.c_void_p * len(STORAGES)),
    )


class _Rounded(ctypes.Structure):
    """Mirrors ``Rounded`` in linear.h."""

    _fields_ = (
        ("levels", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("sums", ctypes.c_void_p),
        ("offsets", ctypes.c_void_p),
        ("columns", ctypes.c_int32),
        ("groups", ctypes.c_int32),
    )


def kernels() -> ctypes.CDLL:
    library = load_kernels(1)
    assert library is not None
    if not hasattr(library, "tiles_for"):
        pytest.skip("this processor has no native decoder")
    for function in (library.tiles_for, library.tiles_among):
        function.restype = ctypes.POINTER(_TileSet)
    return library


def tiles(*storages: str) -> Any:
    """Some tiles, for weights that are stored so."""
    return (ctypes.c_void_p * len(STORAGES))(*(each in storages or None for each in STORAGES))


def among(sets: list[_TileSet], storage: str, rows: int) -> bytes:
    listed = (ctypes.POINTER(_TileSet) * (len(sets) + 1))(*map(ctypes.pointer, sets))
    found: bytes = kernels().tiles_among(listed, STORAGES.index(storage), rows)[0].name
    return found


def test_the_first_set_that_suits_is_taken() -> None:
    sets = [
        _TileSet(name=b"many", least_rows=16, most_rows=32, tiles=tiles("int8")),
        _TileSet(name=b"some", least_rows=4, most_rows=8, tiles=tiles("int8", "int4")),
        _TileSet(name=b"any", least_rows=1, most_rows=6, tiles=tiles(*STORAGES)),
    ]
    taken = {rows: among(sets, "int8", rows) for rows in (1, 3, 4, 15, 16, 500)}
    assert list(taken.values()) == [b"any", b"any", b"some", b"some", b"many", b"many"]
    assert among(sets, "int4", 500) == b"some"
    assert among(sets, "int8_block", 500) == b"any"


@pytest.mark.parametrize("name", instruction_sets.parameters(native_decoder=True))
def test_each_library_has_tiles_for_all_rows_of_all_weights(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("TRIREME_KERNELS", name)
    assert choices(kernels(), "weights") == list(STORAGES)
    for storage in range(len(STORAGES)):
        for rows in (1, 2, 7, 512):
            found = kernels().tiles_for(storage, rows)[0]
            assert found.least_rows <= rows
            assert found.tiles[storage]


def test_a_thread_starts_once_before_its_first_tile() -> None:
    """And again after another set's tiles, which may have left the processor otherwise."""
    library, started = kernels(), []
    first, second = (
        _TileSet(start_thread=_Start(lambda each=each: started.append(each))) for each in "ab"
    )
    nothing = _TileSet()

    def run() -> None:
        for each in (first, first, nothing, first, second, second, first):
            library.tiles_start_thread(ctypes.byref(each))

    for _ in range(2):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert started == list("aba") * 2


# ---- what they compute --------------------------------------------------------------------------


def aligned(size: int, dtype: Any) -> NDArray[Any]:
    """Zeros that begin on a cache line."""
    raw = np.zeros(size * np.dtype(dtype).itemsize + 4096, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size * np.dtype(dtype).itemsize].view(dtype)


def weights(storage: str, rng: np.random.Generator) -> tuple[Linear, list[NDArray[Any]]]:
    groups = 1 if storage == "int8" else COLUMNS // 32
    size = PANELS * COLUMNS * PANEL
    levels = aligned(size // 2 if storage == "int4" else size, np.uint8)
    # In 8 bits all but zero, which stands for a level of -128.
    levels[:] = rng.integers(0 if storage == "int4" else 1, 256, levels.size)
    scales: NDArray[Any] = rng.uniform(0.001, 0.1, PANELS * groups * PANEL)
    scales = scales.astype(np.float32 if storage == "int8" else np.float16)
    minima = rng.normal(0, 1, PANELS * groups * PANEL).astype(np.float16)
    # By panel, group and output, as they lie in memory.
    totals = held(storage, levels, scales, minima).sum(axis=-1).swapaxes(1, 2).astype(np.float16)
    totals = np.ascontiguousarray(totals)
    linear = Linear(
        storage=STORAGES.index(storage),
        inputs=COLUMNS,
        columns=COLUMNS,
        outputs=PANELS * PANEL,
        panels=PANELS,
        levels=levels.ctypes.data,
        scales=scales.ctypes.data,
        minima=minima.ctypes.data,
        totals=None if storage == "int8" else totals.ctypes.data,
    )
    return linear, [levels, scales, minima, totals]


def held(storage: str, *stored: NDArray[Any]) -> NDArray[np.float64]:
    """What levels, scales and minima stand for, ``[panels, outputs, groups, columns]``."""
    levels, *others = stored
    if storage == "int4":
        bytes_ = levels.reshape(PANELS, COLUMNS // 8, PANEL, 4)
        found = np.concatenate([bytes_ & 15, bytes_ >> 4], axis=-1).astype(np.float64)
    else:
        found = levels.reshape(PANELS, COLUMNS // 4, PANEL, 4).astype(np.float64) - 128
    found = found.swapaxes(1, 2).reshape(PANELS, PANEL, -1, COLUMNS if storage == "int8" else 32)
    scales, minima = (
        each.astype(np.float64).reshape(PANELS, -1, PANEL).swapaxes(1, 2)[..., None]
        for each in others
    )
    weight: NDArray[np.float64] = found * scales + (minima if storage == "int4" else 0)
    return weight


def products(
    library: ctypes.CDLL, linear: Linear, values: NDArray[np.float32]
) -> NDArray[np.float32]:
    rows, groups = len(values), 1 if linear.storage == 0 else COLUMNS // 32
    levels = np.zeros((rows, COLUMNS), np.int8)
    scales, sums = (np.zeros((rows, groups), np.float32) for _ in range(2))
    offsets = np.zeros((rows, groups), np.int64)  # a float and an int each
    rounded = _Rounded(
        levels=levels.ctypes.data,
        scales=scales.ctypes.data,
        sums=sums.ctypes.data,
        offsets=offsets.ctypes.data if linear.totals else None,
        columns=COLUMNS,
        groups=groups,
    )
    for row in range(rows):
        library.linear_round(
            ctypes.c_void_p(values[row].ctypes.data), COLUMNS, ctypes.byref(rounded), row
        )
    output = np.zeros((rows, PANELS * PANEL), np.float32)
    for panel in range(PANELS):
        library.linear_panel(
            ctypes.byref(linear),
            ctypes.byref(rounded),
            0,
            rows,
            panel,
            0,
            ctypes.c_void_p(output.ctypes.data),
            PANELS * PANEL,
        )
    return output


@pytest.fixture(params=STORAGES)
def case(request: pytest.FixtureRequest) -> tuple[Linear, NDArray[np.float32], Any]:
    rng = np.random.default_rng(3)
    linear, alive = weights(request.param, rng)
    values = rng.standard_normal((MOST_ROWS, COLUMNS)).astype(np.float32)
    values[1] *= 1000
    values[2] = 0
    values[3] = np.where(rng.random(COLUMNS) < 0.5, -1, 1)  # the largest levels throughout
    values[4, 40] = values[5, 70] = 9  # groups that are mostly on one side of zero
    values[6] -= 5
    values[7] = 3
    return linear, values, alive


Case = tuple[Linear, NDArray[np.float32], Any]
EMULATED = "-mavx512vnni -mavx512vl"
"""The tiles for AVX-VNNI, by instructions of AVX-512 that do the same."""


def each_choice(set_environment: Callable[[str, str], None]) -> list[ctypes.CDLL]:
    found = []
    libraries = [each for each in instruction_sets.runnable() if "avx2" in each.features]
    for each in libraries:
        set_environment("TRIREME_KERNELS", each.name)
        found.append(kernels())
    if shutil.which("cc") and libraries and libraries[0].name == "avx512_vnni":
        set_environment("TRIREME_KERNELS", "avx2")
        # Beside what they are compiled with for a sanitizer, as all others are.
        others = os.environ.get("TRIREME_KERNEL_CFLAGS", "")
        set_environment("TRIREME_KERNEL_CFLAGS", f"{others} {EMULATED}")
        found.append(kernels())
        found[-1].trireme_instructions.restype = ctypes.c_char_p
        assert found[-1].trireme_instructions() == b"AVX-VNNI"
    return found


def test_all_tiles_compute_the_same_bits(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    linear, values, _ = case
    results = [products(each, linear, values) for each in each_choice(monkeypatch.setenv)]
    assert results[0][3].any()
    assert not results[0][2].any()
    assert np.isfinite(results[0]).all()
    for other in results[1:]:
        assert np.array_equal(results[0], other)


def test_a_row_is_the_same_bits_in_tiles_of_all_sizes(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    linear, values, _ = case
    for library in each_choice(monkeypatch.setenv):
        together = products(library, linear, values)
        for rows in range(1, MOST_ROWS):
            assert np.array_equal(products(library, linear, values[:rows]), together[:rows])


def test_products_are_those_of_the_weights_that_are_stored(case: Case) -> None:
    """In float64, of activations rounded as they are: some groups around an offset."""
    linear, values, (levels, scales, minima, totals) = case
    storage = STORAGES[linear.storage]
    weight = held(storage, levels, scales, minima)
    grouped = values.astype(np.float64).reshape(len(values), -1, weight.shape[-1])
    low, high = grouped.min(axis=-1, keepdims=True), grouped.max(axis=-1, keepdims=True)
    top = np.maximum(np.abs(low), np.abs(high))
    is_narrow = ((high - low) / 2 < 0.7 * top) & (storage != "int8")
    assert is_narrow[4:8].any(axis=1).all() == (storage != "int8")
    offsets = np.where(is_narrow, (low + high) / 2, 0)
    steps = np.where(is_narrow, (high - low) / 2, top) / 127
    rounded = np.rint((grouped - offsets) / np.where(steps == 0, 1, steps)) * steps
    expected = rounded.reshape(len(values), -1) @ weight.reshape(PANELS * PANEL, -1).T
    if storage != "int8":
        by_output = totals.astype(np.float64).swapaxes(1, 2).reshape(PANELS * PANEL, -1)
        expected += offsets[..., 0] @ by_output.T
    found = products(kernels(), linear, values)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_a_value_that_stands_out_costs_its_group_less_by_an_offset(case: Case) -> None:
    linear, values, (levels, scales, minima, _) = case
    weight = held(STORAGES[linear.storage], levels, scales, minima)
    exact = values[4:7].astype(np.float64) @ weight.reshape(PANELS * PANEL, -1).T
    lost = np.abs(products(kernels(), linear, values[4:7]) - exact).mean(axis=1)
    totals, linear.totals = linear.totals, None
    lost_around_zero = np.abs(products(kernels(), linear, values[4:7]) - exact).mean(axis=1)
    linear.totals = totals
    assert np.array_equal(lost, lost_around_zero) == (totals is None)
    assert (lost <= lost_around_zero).all()


@pytest.mark.parametrize("storage", ["int8_block", "int4"])
def test_packing_adds_up_the_weights_that_exist(storage: str) -> None:
    """Of the last group some columns are padding, whose levels stand for something, too."""
    rng = np.random.default_rng(4)
    outputs, columns, groups, size = 100, 70, 3, 16 if storage == "int4" else 32
    levels = rng.integers(1, 256, (outputs, groups, size)).astype(np.uint8)
    scales, middles = rng.uniform(0.01, 0.1, (2, outputs, groups)).astype(np.float16)
    scales, middles = scales.astype(np.float32), middles.astype(np.float32)
    to_levels = aligned(2 * COLUMNS * PANEL, np.uint8)
    to_scales, to_minima, to_totals = (aligned(2 * groups * PANEL, np.float16) for _ in range(3))
    packing = Packing(
        levels=levels.ctypes.data,
        scales=scales.ctypes.data,
        middles=middles.ctypes.data,
        storage=STORAGES.index(storage),
        outputs=outputs,
        columns=columns,
        padded=COLUMNS,
        every=1,
        to_levels=to_levels.ctypes.data,
        to_scales=to_scales.ctypes.data,
        to_minima=to_minima.ctypes.data,
        to_totals=to_totals.ctypes.data,
    )
    kernels().trireme_pack(ctypes.byref(packing))
    if storage == "int4":
        whole = np.stack([levels & 15, levels >> 4], axis=-1).reshape(outputs, groups, 32)
        weight = (whole - 8.0) * scales[..., None] + middles[..., None]
    else:
        weight = (levels - 128.0) * scales[..., None]
    weight = weight.reshape(outputs, -1)
    weight[:, columns:] = 0
    expected = weight.reshape(outputs, groups, 32).sum(axis=-1)
    found = to_totals.reshape(2, groups, PANEL).swapaxes(1, 2).reshape(-1, groups)
    np.testing.assert_allclose(found[:outputs], expected, rtol=1e-3, atol=0.02)
    assert not found[outputs:].any()
