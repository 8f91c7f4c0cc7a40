"""Closeness is what its definitions say, and an engine's logits are those of all its rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from build.engine_folder import build_engine
from build.quality import reading
from build.quality.closeness import Kept, Passage, compare, windows
from build.quality.reading import QUESTIONS, WINDOW_TOKENS, EnginePredictor, answers, prose
from tests.build import reference
from tests.build.builds import make_model
from tests.build.checkpoints import make_config, make_tensors

VOCABULARY = 50


class Table:
    """Predicts by the newest token alone."""

    def __init__(self, seed: int, noise: float = 0.0) -> None:
        table = np.random.default_rng(0).normal(0, 3, (VOCABULARY, VOCABULARY))
        table += noise * np.random.default_rng(seed).normal(0, 1, table.shape)
        self.table = table.astype(np.float32)

    def logits(self, tokens: NDArray[np.int32], rows: int) -> NDArray[np.float32]:
        rows_of: NDArray[np.float32] = self.table[tokens[-rows:]]
        return rows_of

    def log_probs(self, token: int) -> NDArray[np.float64]:
        row = self.table[token].astype(np.float64)
        found: NDArray[np.float64] = row - row.max() - math.log(np.exp(row - row.max()).sum())
        return found


def some_passages(count: int = 4, size: int = 30, compared: int = 20) -> list[Passage]:
    rng = np.random.default_rng(5)
    return [
        Passage(rng.integers(0, VOCABULARY, size).astype(np.int32), compared) for _ in range(count)
    ]


def test_figures_are_those_of_the_definitions() -> None:
    one, other = Table(1), Table(2, noise=0.5)
    found = compare(one, [one, other], some_passages())
    lost, divergences, same, nll = [], [], [], []
    for tokens, compared in some_passages():
        for place in range(len(tokens) - compared, len(tokens)):
            p, q = one.log_probs(tokens[place - 1]), other.log_probs(tokens[place - 1])
            lost.append(p[tokens[place]] - q[tokens[place]])
            nll.append(-q[tokens[place]])
            divergences.append((np.exp(p) * (p - q)).sum())
            same.append(p.argmax() == q.argmax())
    assert found[1].tokens == len(lost) == 80
    assert found[1].perplexity == pytest.approx(math.exp(np.mean(nll)), rel=1e-5)
    assert found[1].increase == pytest.approx(math.exp(np.mean(lost)) - 1, rel=1e-4)
    assert found[1].increase_error == pytest.approx(
        math.exp(np.mean(lost)) * np.std(lost) / 80**0.5, rel=1e-4
    )
    assert found[1].divergence == pytest.approx(np.mean(divergences), rel=1e-4)
    assert found[1].divergence_error == pytest.approx(np.std(divergences) / 80**0.5, rel=1e-4)
    assert found[1].agreement == np.mean(same) < 1
    assert found[0].increase == 0
    assert found[0].divergence == pytest.approx(0, abs=1e-6)
    assert found[0].agreement == 1


class Counting(Table):
    """Counts what it reads."""

    read = 0

    def logits(self, tokens: NDArray[np.int32], rows: int) -> NDArray[np.float32]:
        self.read += 1
        return super().logits(tokens, rows)


def test_what_was_found_is_kept_and_only_the_rest_is_read(tmp_path):
    reference, one, other = Counting(1), Counting(2, noise=0.5), Counting(3, noise=0.1)
    shelves = [Kept(tmp_path / "one"), Kept(tmp_path / "other")]
    whole = compare(reference, [one, other], some_passages())
    assert compare(reference, [one], some_passages()[:3], kept=shelves[:1])[0].tokens == 60
    for each in (reference, one, other):
        each.read = 0
    assert compare(reference, [one, other], some_passages(), kept=shelves) == whole
    assert (reference.read, one.read, other.read) == (4, 1, 4)
    assert compare(reference, [one, other], some_passages(), kept=shelves) == whole
    assert (reference.read, one.read, other.read) == (4, 1, 4)
    # As many tokens of which fewer are compared are another passage.
    shorter = [passage._replace(compared=5) for passage in some_passages()]
    assert compare(reference, [one], shorter, kept=shelves[:1])[0].tokens == 20


@pytest.mark.parametrize("begin", [[], [7]])
def test_windows_compare_each_token_that_something_stands_before(begin):
    text = np.arange(100, 125, dtype=np.int32)
    found = list(windows(text, np.array(begin, np.int32), 8))
    read = [token for window in found for token in window.tokens[len(begin) :].tolist()]
    assert read == text[: len(read)].tolist()
    assert len(text) - len(read) < 8
    assert {window.compared for window in found} == {7}
    assert all(window.tokens[: len(begin)].tolist() == begin for window in found)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folder = make_model(tmp_path_factory.mktemp("model") / "tiny")
    build_engine(folder, folder / "engine", "fp32")
    return folder / "engine"


def test_an_engine_gives_the_logits_of_every_row(engine):
    """Passage after passage, against an independent decoder."""
    predictor = EnginePredictor(engine)
    config = make_config(vocab_size=2048, max_position_embeddings=512)
    tensors = make_tensors(config)
    for seed, size, rows in ((1, 40, 39), (2, 70, 5)):
        tokens = np.random.default_rng(seed).integers(0, 2048, size).astype(np.int32)
        expected = reference.logits(config, tensors, tokens.tolist())[-rows:]
        np.testing.assert_allclose(predictor.logits(tokens, rows), expected, atol=1e-3)


def test_the_text_is_read_whole_and_every_question_is_asked(engine, monkeypatch):
    monkeypatch.setattr(reading, "ANSWER_TOKENS", 3)
    text = prose(engine)
    assert sum(passage.compared for passage in text) > 50_000
    assert all(len(passage.tokens) == WINDOW_TOKENS for passage in text)
    answered = answers(engine)
    assert len(answered) == len(QUESTIONS.read_text().splitlines()) == 380
    assert all(0 < passage.compared < len(passage.tokens) for passage in answered)


def test_an_engine_is_as_close_to_itself_as_can_be(engine):
    predictor = EnginePredictor(engine)
    found = compare(predictor, [EnginePredictor(engine)], prose(engine)[:2])
    assert found[0].divergence == pytest.approx(0, abs=1e-5)
    assert (found[0].increase, found[0].agreement) == (0, 1)
