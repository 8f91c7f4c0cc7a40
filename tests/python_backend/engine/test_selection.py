"""Selection from rows of logits: C and numpy choose the same, by the definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from python_backend.engine.selection import (
    DRAW,
    ONE,
    KernelSelection,
    NumpySelection,
    load_selection,
)
from tests.examples import examples

KERNEL, NUMPY = load_selection(num_threads=2), NumpySelection()


def make_rows(rng: np.random.Generator, rows: int, size: int, kind: str) -> NDArray[np.float32]:
    """Logits as models have them, and as nobody would think of."""
    logits = rng.standard_normal((rows, size), dtype=np.float32)
    if kind == "peaked":
        logits[rng.integers(0, 100, logits.shape) == 0] += 12
        return logits * 2
    if kind == "tied":
        return np.round(logits)
    if kind == "banned":
        logits[rng.integers(0, 3, logits.shape) > 0] = -np.inf
    if kind == "steep":
        return np.sort(logits * 1e4)[:, ::-1].copy()
    return logits


KINDS = ("flat", "peaked", "tied", "banned", "steep")


def make_draws(rng: np.random.Generator, rows: int, size: int) -> NDArray[Any]:
    draws = np.zeros(rows, dtype=DRAW)
    draws["top_p"] = rng.choice([1e-6, 0.1, 0.5, 0.9, 0.999, 1 - 2**-52, 1], rows)
    draws["random"] = rng.choice([0, 0.5, 1 - 2**-53, *rng.random(8)], rows)
    draws["inverse_temperature"] = rng.choice([1e-30, 0.1, 1, 1.4, 10, 1e30], rows)
    draws["top_k"] = rng.choice([0, 0, 1, 2, 50, size // 2, size, size + 9], rows)
    draws["least_weight"] = rng.choice([1, 1, 2, ONE // 20, ONE // 2, ONE], rows)
    return draws


@settings(max_examples=examples(150))
@given(
    seed=st.integers(0, 2**32),
    size=st.one_of(st.integers(1, 70), st.integers(500, 3000)),
    kind=st.sampled_from(KINDS),
)
def test_c_chooses_what_numpy_chooses(seed: int, size: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    logits, draws = make_rows(rng, 8, size, kind), make_draws(rng, 8, size)
    rows = rng.choice(8, rng.integers(1, 9), replace=False).tolist()
    draws = draws[: len(rows)]
    chosen = KERNEL.choose(logits, rows, draws)
    assert chosen == NUMPY.choose(logits, rows, draws)
    assert chosen == [
        KERNEL.choose(logits[row : row + 1], [0], draws[index : index + 1])[0]
        for index, row in enumerate(rows)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_so_it_does_where_a_sample_of_the_weights_says_where_to_look(kind: str) -> None:
    """Large vocabularies, and heavy tokens where the sample doesn't look."""
    rng = np.random.default_rng(5)
    logits, draws = make_rows(rng, 6, 152_000, kind), make_draws(rng, 6, 152_000)
    logits[:, 16::512] -= 3
    logits[:, :16] += 3
    rows = list(range(6))
    assert KERNEL.choose(logits, rows, draws) == NUMPY.choose(logits, rows, draws)


@pytest.mark.parametrize(
    ("top_k", "top_p"), [(1000, 1), (2400, 1), (9000, 1), (0, 0.3), (1000, 0.9)]
)
def test_so_it_does_where_all_that_is_heavy_is_where_the_sample_does_not_look(
    top_k: int, top_p: float
) -> None:
    rng = np.random.default_rng(6)
    logits = make_rows(rng, 6, 152_000, "flat")
    unseen = np.flatnonzero(np.arange(152_000) % 512 >= 16)
    logits[:, unseen[:2500]] += 5
    draws = make_draws(rng, 6, 152_000)
    draws["top_k"], draws["top_p"], draws["least_weight"] = top_k, top_p, 1
    draws["inverse_temperature"] = 1
    rows = list(range(6))
    assert KERNEL.choose(logits, rows, draws) == NUMPY.choose(logits, rows, draws)


@settings(max_examples=examples(100))
@given(
    seed=st.integers(0, 2**32),
    size=st.one_of(st.integers(1, 70), st.integers(500, 3000)),
    kind=st.sampled_from(KINDS),
    data=st.data(),
)
def test_c_describes_as_numpy_does(seed: int, size: int, kind: str, data: st.DataObject) -> None:
    logits = make_rows(np.random.default_rng(seed), 4, size, kind)
    rows = data.draw(st.lists(st.integers(0, 3), max_size=4))
    count = data.draw(st.integers(0, min(size, 20)))
    normalizers, tops = KERNEL.describe(logits, rows, count)
    expected_normalizers, expected_tops = NUMPY.describe(logits, rows, count)
    assert normalizers == pytest.approx(expected_normalizers, abs=1e-6, rel=1e-6)
    assert tops.tolist() == expected_tops.tolist()
    exact = np.logaddexp.reduce(logits[rows].astype(np.float64), axis=1)
    assert normalizers == pytest.approx(exact, abs=1e-6, rel=1e-6)


@pytest.mark.parametrize("selection", [KERNEL, NUMPY])
def test_a_row_without_a_finite_logit_yields_a_token(selection: KernelSelection) -> None:
    logits = np.full((1, 40), -np.inf, dtype=np.float32)
    draws = np.array([(0.5, 0.5, 1, 0, 1, 0)], dtype=DRAW)
    assert selection.choose(logits, [0], draws) == [0]
    assert selection.describe(logits, [0], 2)[0] == [-np.inf]


@pytest.mark.parametrize("selection", [KERNEL, NUMPY])
def test_logits_that_are_not_numbers_do_no_harm(selection: KernelSelection) -> None:
    logits = np.full((3, 40), np.nan, dtype=np.float32)
    logits[1:, 7] = 1
    draws = np.array([(0.5, 0.5, 1, k, 1, 0) for k in (0, 3, 1)], dtype=DRAW)
    assert all(0 <= token < 40 for token in selection.choose(logits, [0, 1, 2], draws))


@pytest.mark.parametrize("selection", [KERNEL, NUMPY])
@pytest.mark.parametrize("top_k", [0, 2, 3, 7, 17, 99])
def test_from_end_to_end_of_the_random_numbers_what_has_a_weight_is_drawn(
    selection: KernelSelection, top_k: int
) -> None:
    """Seventeen logits, so that a vector's rest follows them, and few of them finite."""
    logits = np.full((1, 17), -np.inf, dtype=np.float32)
    logits[0, [9, 3, 12]] = 0, -20.5, -21.5  # weights of 2^30, 1 and 0
    for random, expected in ((0, 3), (2**-30, 9), (0.5, 9), (1 - 2**-53, 9)):
        draws = np.array([(1, random, 1, top_k, 1, 0)], dtype=DRAW)
        assert selection.choose(logits, [0], draws) == [expected]
    logits[0, [3, 16]] = -np.inf, -20.5
    for random, expected in ((0, 9), (0.5, 9), (1 - 2**-53, 16)):
        draws = np.array([(1, random, 1, top_k, 1, 0)], dtype=DRAW)
        assert selection.choose(logits, [0], draws) == [expected]


@pytest.mark.parametrize("selection", [KERNEL, NUMPY])
@pytest.mark.parametrize(("top_p", "expected"), [(0.5, 0), (0.5 + 2**-40, 1)])
def test_a_share_is_reached_where_it_is_reached_in_full(
    selection: KernelSelection, top_p: float, expected: int
) -> None:
    logits = np.zeros((1, 2), dtype=np.float32)
    draws = np.array([(top_p, 0.75, 1, 0, 1, 0)], dtype=DRAW)
    assert selection.choose(logits, [0], draws) == [expected]


def test_there_are_kernels_where_this_is_tested() -> None:
    assert isinstance(KERNEL, KernelSelection)
