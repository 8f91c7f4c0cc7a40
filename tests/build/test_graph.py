"""The graph computes what the checkpoint means: compared with a reference in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from build.engine import build_engine
from tests.build import reference
from tests.build.checkpoints import KINDS, Engine, make_config, make_tensors, write_checkpoint

TOKENS = [[5, 17, 93, 2, 44, 61, 8, 30, 99, 12, 71, 3], [88, 4, 19, 23, 50], [7]]
NEXT = [[31], [100], [0]]


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def build(folder: Path, kind: str, precision="fp32", dtype="fp32", **changes):
    """Build a tiny engine; returns its folder and the reference for the same checkpoint."""
    config = make_config(kind, **changes)
    tensors = make_tensors(config, dtype)
    checkpoint = write_checkpoint(folder / "checkpoint", config, tensors)
    build_engine(checkpoint, folder / "engine", precision)
    return folder / "engine", lambda tokens: reference.logits(config, tensors, tokens)


def test_prefill(tmp_path, kind):
    engine, expected = build(tmp_path, kind)
    actual = Engine(engine).step(TOKENS[:1])
    np.testing.assert_allclose(actual[0], expected(TOKENS[0])[-1], atol=1e-4)


def test_chunked_prefill_onto_a_past(tmp_path, kind):
    folder, expected = build(tmp_path, kind)
    engine = Engine(folder)
    logits = expected(TOKENS[0])
    for start, end in ((0, 5), (5, 6), (6, 12)):
        actual = engine.step([TOKENS[0][start:end]])
        np.testing.assert_allclose(actual[0], logits[end - 1], atol=1e-4)


def test_batched_decode_of_rows_of_different_lengths(tmp_path, kind):
    folder, expected = build(tmp_path, kind)
    engine = Engine(folder, rows=3)
    for row, tokens in enumerate(TOKENS):
        engine.step([tokens], slice(row, row + 1))
    together = engine.step(NEXT)
    for row, tokens in enumerate(TOKENS):
        np.testing.assert_allclose(together[row], expected(tokens + NEXT[row])[-1], atol=1e-4)
