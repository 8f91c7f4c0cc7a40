"""Weights in four and eight bits: the arithmetic, apart from any graph or file.

In four bits, blocks of 32 weights along a row share a scale and a zero point. For a CPU that is any
number, which the engine keeps as the block's minimum; for a GPU, whose operator takes four bits, a
whole one. In eight bits, a row has a scale, or each block of 32; in E4M3, which has more range than
steps, 128 weights of a row.

Blocks that a GGUF file holds as Q4_0, Q4_1 or Q8_0 are found again from the numbers that they stand
for: rounded to a grid of the same kind, they are not rounded a second time.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

BLOCK_SIZE = 32
FLOAT8 = np.dtype(ml_dtypes.float8_e4m3fn)
FLOAT8_BLOCK_SIZE = 128
_FLOAT8_MAX = np.float32(448)

Int4Method: TypeAlias = Literal["rtn", "k_quant", "gptq"]
"""How weights become int4: to the nearest level, to the levels of least squared error, or so that
results on a calibration text change least (:mod:`build.gptq`). The engine is the same to run."""


class Int8Rows(NamedTuple):
    """Rows of a matrix ``[rows, columns]``: weight ``[i, j]`` is ``levels[i, j] * scales[i]``.

    Attributes:
        levels: ``int8 [rows, columns]``, -127 to 127.
        scales: ``float32 [rows]``.
    """

    levels: NDArray[np.int8]
    scales: NDArray[np.float32]


def quantize_int8(rows: NDArray[np.float32]) -> Int8Rows:
    """Round rows to the nearest of 255 levels, the outermost at each row's largest weight."""
    scales = np.abs(rows).max(axis=1) / np.float32(127)
    scales[scales == 0] = 1
    levels = rows / scales[:, None]
    np.rint(levels, out=levels)
    np.clip(levels, -127, 127, out=levels)  # 128 only where a scale is subnormal
    return Int8Rows(levels.astype(np.int8), scales)


class Int8Blocks(NamedTuple):
    """Rows of a matrix ``[rows, columns]`` in the layout that ``MatMulNBits`` reads.

    Attributes:
        blocks: ``uint8 [rows, blocks, 32]``, levels plus 128.
        scales: ``float32 [rows, blocks]``, which float16 holds.
    """

    blocks: NDArray[np.uint8]
    scales: NDArray[np.float32]


def quantize_int8_blocks(rows: NDArray[np.float32]) -> Int8Blocks:
    """Round rows to the nearest of 255 levels, the outermost at each block's largest weight."""
    values = in_blocks(rows)
    scales = _storable(np.abs(values).max(axis=2) / np.float32(127))
    scales[scales == 0] = 1
    levels = values / scales[..., None]
    np.rint(levels, out=levels)
    np.clip(levels, -127, 127, out=levels)
    levels += 128
    return Int8Blocks(levels.astype(np.uint8), scales)


class Float8Rows(NamedTuple):
    """Rows of a matrix ``[rows, columns]``, 128 weights of a row to a scale.

    Attributes:
        values: E4M3 ``[rows, columns]``.
        scales: ``float32 [rows, ceil(columns / 128)]``.
    """

    values: NDArray[Any]
    scales: NDArray[np.float32]


def quantize_float8(rows: NDArray[np.float32]) -> Float8Rows:
    """Round rows to E4M3, the largest weight of a block at the largest value that it has."""
    count, columns = rows.shape
    blocks = -(-columns // FLOAT8_BLOCK_SIZE)
    padded = np.zeros((count, blocks * FLOAT8_BLOCK_SIZE), np.float32)
    padded[:, :columns] = rows
    grouped = padded.reshape(count, blocks, FLOAT8_BLOCK_SIZE)
    scales = np.abs(grouped).max(axis=2) / _FLOAT8_MAX
    scales[scales == 0] = 1
    values = (grouped / scales[..., None]).astype(FLOAT8)
    return Float8Rows(values.reshape(count, -1)[:, :columns], scales)


class Int4Rows(NamedTuple):
    """Rows of a matrix ``[rows, columns]``, weights in the layout that ``MatMulNBits`` reads.

    Attributes:
        packed: ``uint8 [rows, blocks, 16]``, two weights a byte, the first in the low four bits.
        scales: ``float32 [rows, blocks]``, which float16 holds.
        zero_points: ``float32 [rows, blocks]``; float16 holds their products with the scales.
    """

    packed: NDArray[np.uint8]
    scales: NDArray[np.float32]
    zero_points: NDArray[np.float32]

    @property
    def middles(self) -> NDArray[np.float32]:
        """What level 8 of each block stands for, ``float32 [rows, blocks]``."""
        minima = _storable(-self.zero_points * self.scales)
        middles: NDArray[np.float32] = minima + np.float32(8) * self.scales
        return middles

    @property
    def packed_zero_points(self) -> NDArray[np.uint8]:
        """Whole zero points as weights are packed, ``uint8 [rows, ceil(blocks / 2)]``."""
        return _pack(np.pad(self.zero_points, ((0, 0), (0, self.zero_points.shape[1] % 2))))


class Grid(NamedTuple):
    """The 16 levels that a block of weights is rounded to: ``(level - zero_point) * scale``.

    Attributes:
        scales: ``float32 [..., blocks]``.
        zero_points: ``float32 [..., blocks]``.
    """

    scales: NDArray[np.float32]
    zero_points: NDArray[np.float32]

    def levels(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """The nearest levels, whole numbers from 0 to 15, of ``values [..., blocks, size]``."""
        levels = values / self.scales[..., None]
        levels += self.zero_points[..., None]
        np.rint(levels, out=levels)
        return np.clip(levels, 0, 15, out=levels)

    def held(self, levels: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the engine holds for levels ``[..., blocks, size]``: minima are float16 there."""
        minima = _storable(-self.zero_points * self.scales)
        held: NDArray[np.float32] = levels * self.scales[..., None] + minima[..., None]
        return held

    def better(self, other: Grid, is_better: NDArray[np.bool_]) -> Grid:
        """This grid, and another where that is better."""
        return Grid(
            np.where(is_better, other.scales, self.scales),
            np.where(is_better, other.zero_points, self.zero_points),
        )


def quantize_int4(rows: NDArray[np.float32], whole: bool = False) -> Int4Rows:
    """Round rows to the nearest of 16 levels that span each block's range.

    A weight ``w`` becomes ``q`` with ``w ≈ (q - zero_point) * scale``. The last block of a row is
    filled with zeros where the row does not divide.

    Args:
        rows: The weights.
        whole: Whether zero points are to be whole numbers from 0 to 15: zero stays zero exactly.
    """
    values = in_blocks(rows)
    grid = spanning_grid(values, whole=whole)
    return pack_int4(grid.levels(values), grid)


def search_int4(rows: NDArray[np.float32], whole: bool = False) -> Int4Rows:
    """Round rows to the 16 levels that leave each block the least squared error.

    The k-quants' way (llama.cpp): ranges narrower than a block's own are tried, the grid of each
    fitted to the levels that it gives, and the best is kept. Needs no data; layout and arguments
    are those of :func:`quantize_int4`.
    """
    values = in_blocks(rows)
    grid = fitted_grid(values, whole)
    return pack_int4(grid.levels(values), grid)


def in_blocks(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows ``[rows, columns]`` as ``[rows, blocks, 32]``, the last block filled with zeros."""
    count, columns = rows.shape
    blocks = -(-columns // BLOCK_SIZE)
    if columns % BLOCK_SIZE:
        rows = np.pad(rows, ((0, 0), (0, blocks * BLOCK_SIZE - columns)))
    return rows.reshape(count, blocks, BLOCK_SIZE)


def spanning_grid(values: NDArray[np.float32], part: float = 1.0, whole: bool = False) -> Grid:
    """The levels that span a part of each block's range.

    Args:
        values: ``[..., blocks, size]``.
        part: Of the range, around its middle; around zero where zero points are whole.
        whole: Whether zero points are whole numbers, and zero so among the levels.
    """
    low, high = values.min(axis=-1), values.max(axis=-1)
    if whole:
        low, high = (np.float32(part) * each for each in (np.minimum(low, 0), np.maximum(high, 0)))
        scales = _storable((high - low) / np.float32(15))
        scales[scales == 0] = 1
        # 16 only where a scale is subnormal
        return Grid(scales, np.minimum(np.rint(-low / scales), 15))
    spare = (high - low) * np.float32((1 - part) / 2)
    grid = _grid_from((high - low) * np.float32(part / 15), low + spare)
    return _stored_grid(values, grid) if part == 1 else grid


def fitted_grid(values: NDArray[np.float32], whole: bool = False) -> Grid:
    """The levels that leave each block least squared error, of ``values [..., blocks, size]``."""
    best = spanning_grid(values, whole=whole)
    least = _squared_error(values, best)
    for part in _PARTS:
        tried = spanning_grid(values, part, whole)
        tried = (_fit_scale if whole else _fit)(values, tried)
        error = _squared_error(values, tried)
        better = error < least
        least = np.where(better, error, least)
        best = best.better(tried, better)
    return best


def _fit_scale(values: NDArray[np.float32], grid: Grid) -> Grid:
    """The scale that fits a grid's levels best, by least squares; zero points stay."""
    steps = grid.levels(values) - grid.zero_points[..., None]
    squares = (steps * steps).sum(axis=-1)
    fitted = _storable((values * steps).sum(axis=-1) / np.where(squares == 0, 1, squares))
    return Grid(np.where(fitted > 0, fitted, grid.scales), grid.zero_points)


def _fit(values: NDArray[np.float32], grid: Grid) -> Grid:
    """The scale and the minimum that fit a grid's levels best, by least squares."""
    levels = grid.levels(values)
    level, value = levels.mean(axis=-1), values.mean(axis=-1)
    spread = np.square(levels - level[..., None]).mean(axis=-1)
    together = (levels * values).mean(axis=-1) - level * value
    scales = together / np.where(spread == 0, 1, spread)
    fitted = _grid_from(scales, value - scales * level)
    return grid.better(fitted, (spread > 0) & (_storable(scales) > 0))


def _stored_grid(values: NDArray[np.float32], grid: Grid) -> Grid:
    """The grid that a block is on already, as Q4_0 and Q4_1 of a GGUF file leave it, or ``grid``.

    The spanning grid is that of Q4_1, but for what it was rounded by. Q4_0's scale is an eighth of
    the weight of largest magnitude, which is its level 0, so that the scale may be negative.
    """
    largest = np.take_along_axis(values, np.abs(values).argmax(axis=-1)[..., None], axis=-1)[..., 0]
    of_q4_0 = _grid_from(largest / np.float32(-8), largest)
    return grid.better(of_q4_0, _is_exact(values, of_q4_0) & ~_is_exact(values, grid))


def _is_exact(values: NDArray[np.float32], grid: Grid) -> NDArray[np.bool_]:
    exact: NDArray[np.bool_] = (grid.held(grid.levels(values)) == values).all(axis=-1)
    return exact


def _grid_from(scales: NDArray[np.float32], minima: NDArray[np.float32]) -> Grid:
    """The grid of these scales and minima, rounded to what is stored."""
    scales = _storable(scales)
    scales[scales == 0] = 1
    return Grid(scales, -_storable(minima) / scales)


def pack_int4(levels: NDArray[np.float32], grid: Grid) -> Int4Rows:
    """Levels ``[rows, blocks, 32]`` and their grids in the layout of :class:`Int4Rows`."""
    return Int4Rows(_pack(levels), grid.scales.astype(np.float32), grid.zero_points)


# Clipping the ends of a block's range a little makes all steps smaller. Clipping either end alone
# as well took five times as long for 5 % less divergence on the demo model.
_PARTS = tuple(np.linspace(1.0, 0.65, 15).tolist())


def _storable(scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """The native decoder keeps scales in float16: nothing is lost where they are that from here."""
    return scales.astype(np.float16).astype(np.float32)


def _squared_error(values: NDArray[np.float32], grid: Grid) -> NDArray[np.float32]:
    steps = grid.levels(values) - grid.zero_points[..., None]
    error: NDArray[np.float32] = np.square(values - steps * grid.scales[..., None]).sum(axis=-1)
    return error


def _pack(levels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Put two whole numbers below 16 into each byte, along the last axis."""
    nibbles = levels.astype(np.uint8)
    return nibbles[..., ::2] | np.left_shift(nibbles[..., 1::2], 4, dtype=np.uint8)
