"""GPTQ: rounding weights so that a product's results change least, not the weights themselves.

Columns are rounded one after the other, and the error of each is made good by the columns that are
still to come, as far as the inputs go together (Frantar et al. 2022, arXiv:2210.17323). Blocks and
layout are those of :mod:`build.quantize`, so an engine doesn't know how its weights were rounded.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from build.quantize import BLOCK_SIZE, Grid, Int4Rows, fitted_grid, pack_int4

_DAMPING = 0.05


class Gptq:
    """Rounds the rows of the matrices that share one input.

    Args:
        moments: float32 ``[columns, columns]``: the input's second moments, ``x.T @ x`` over
            calibration tokens.
    """

    def __init__(self, moments: NDArray[np.float32]) -> None:
        damped = moments.astype(np.float64)
        diagonal = np.einsum("ii->i", damped)
        # Inputs that were never seen, or seldom, leave their columns nearly to plain rounding.
        diagonal += _DAMPING * (diagonal.mean() or 1.0)
        upper = np.linalg.cholesky(np.linalg.inv(damped)).T
        # An error of column i, divided by its diagonal, is spread over the columns after it.
        self._spread = (upper / np.einsum("ii->i", upper)[:, None]).astype(np.float32)

    def quantize(self, rows: NDArray[np.float32]) -> Int4Rows:
        """Round ``rows [rows, columns]``, each by itself."""
        count, columns = rows.shape
        left = rows.astype(np.float32)
        blocks = -(-columns // BLOCK_SIZE)
        levels = np.zeros((count, blocks, BLOCK_SIZE), np.float32)
        scales = np.ones((count, blocks), np.float32)
        zero_points = np.zeros((count, blocks), np.float32)
        for block in range(blocks):
            start, end = block * BLOCK_SIZE, min((block + 1) * BLOCK_SIZE, columns)
            grid = fitted_grid(left[:, start:end])
            errors = np.zeros((count, end - start), np.float32)
            for column in range(start, end):
                values = left[:, column : column + 1]
                level = grid.levels(values)
                error = left[:, column] - grid.held(level)[:, 0]
                levels[:, block, column - start] = level[:, 0]
                errors[:, column - start] = error
                left[:, column + 1 : end] -= np.outer(error, self._spread[column, column + 1 : end])
            left[:, end:] -= errors @ self._spread[start:end, end:]
            scales[:, block], zero_points[:, block] = grid.scales, grid.zero_points
        return pack_int4(levels, Grid(scales, zero_points))
