"""Drafts change no token and no log probability, whatever they are and whatever is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from build.engine_folder import build_engine
from python_backend.engine.attention import can_attend_int8
from python_backend.engine.onnx_engine import OnnxEngine
from python_backend.engine.sequence import SamplingParams, Sequence
from tests.build.checkpoints import make_checkpoint

VOCAB = 101
RNG = np.random.default_rng(3)
PREFIX = RNG.integers(3, VOCAB, 40, dtype=np.int32)
PROMPTS = [
    np.concatenate([PREFIX[: 3 * length % 41], RNG.integers(3, VOCAB, length, dtype=np.int32)])
    for length in (1, 40, 16, 3, 9, 31, 20)
]

Propose = Callable[[Sequence, list[int]], list[int]]
"""Drafts for a sequence, given what it becomes."""


def oracle(sequence: Sequence, output: list[int]) -> list[int]:
    return output[len(sequence.output) :][:6]


def wrong(sequence: Sequence, output: list[int]) -> list[int]:
    return [(token + 1) % VOCAB for token in oracle(sequence, output)]


def chance(sequence: Sequence, output: list[int]) -> list[int]:
    """So many right ones, and so many of any kind, more than may be of use."""
    right, count = RNG.integers(0, 7), RNG.integers(0, 30)
    return [*oracle(sequence, output)[:right], *RNG.integers(0, VOCAB, count).tolist()]


class Odd:
    """What a grammar would do: after an odd token an even one, and the other way round."""

    def shape(self, row: NDArray[np.float32], output: list[int]) -> None:
        if output:
            row[output[-1] % 2 :: 2] = -np.inf


@pytest.fixture(scope="module", params=["fp32", "int8", "int4"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp(request.param)
    build_engine(make_checkpoint(root / "checkpoint"), root / "1", request.param)
    return root / "1"


def load(folder: Path, **settings: Any) -> OnnxEngine:
    return OnnxEngine(folder, **{"num_threads": 1, "kv_cache_bytes": 16 << 20, **settings})


GREEDY = SamplingParams(max_tokens=24)
SEEDED = replace(GREEDY, top_p=0.95, top_k=40, temperature=1.5, seed=3)
WORDS = tuple((token,) for token in range(0, VOCAB, 7))
WAYS: dict[str, Any] = {
    "greedy": GREEDY,
    "seeded": SEEDED,
    "penalties": replace(SEEDED, repetition_penalty=1.3, frequency_penalty=0.2),
    "bad words": replace(GREEDY, bad_words=(*WORDS, *((a, b) for a in range(30) for b in (5, 9)))),
    "stop words": replace(SEEDED, stop_words=tuple((a, b) for a in range(40) for b in range(40))),
    "ends": replace(SEEDED, end_ids=frozenset(range(20)), min_tokens=9),
    "log probabilities": replace(
        SEEDED, log_probs=True, num_top_log_probs=3, presence_penalty=1.0, num_prompt_log_probs=30
    ),
}


def run(
    engine: OnnxEngine,
    ways: list[SamplingParams],
    propose: Propose | None = None,
    become: list[Sequence] | None = None,
    shapers: tuple[Any, ...] = (),
) -> list[Sequence]:
    """All prompts together, in turns sampled in these ways."""
    sequences = [
        Sequence(prompt, ways[index % len(ways)], shapers=shapers)
        for index, prompt in enumerate(PROMPTS)
    ]
    for sequence in sequences:
        engine.add(sequence)
    while engine.has_work:
        for sequence, model in zip(sequences, become or [], strict=False):
            if propose is not None:
                sequence.drafts = propose(sequence, model.output)
        engine.step()
    return sequences


def told(sequences: list[Sequence]) -> list[Any]:
    return [(each.output, each.finish_reason) for each in sequences]


def check_log_probs(engine: OnnxEngine, found: list[Sequence], expected: list[Sequence]) -> None:
    """The same bits where the native decoder runs; see test_invariance.py."""
    for one, other in zip(found, expected, strict=True):
        for name in ("log_probs", "prompt_log_probs"):
            mine, theirs = getattr(one, name), getattr(other, name)
            if engine.runner.name.startswith("native"):
                assert mine == theirs
            assert [each.chosen for each in mine] == pytest.approx(
                [each.chosen for each in theirs], abs=1e-4
            )


@pytest.mark.parametrize("way", WAYS)
def test_whatever_is_guessed_the_same_comes_of_it(folder: Path, way: str) -> None:
    ways = [WAYS[way]]
    expected = run(load(folder), ways)
    if way != "stop words":
        assert len({tuple(each.output) for each in expected}) == len(PROMPTS)
    for propose in (oracle, wrong, chance):
        engine = load(folder)
        found = run(engine, ways, propose, expected)
        assert told(found) == told(expected)
        check_log_probs(engine, found, expected)


@pytest.mark.parametrize("propose", [oracle, wrong, chance])
def test_so_it_does_in_little_memory_in_chunks_and_with_known_prefixes(
    folder: Path, propose: Propose
) -> None:
    ways = list(WAYS.values())
    expected = run(load(folder), ways)
    block_bytes = OnnxEngine(folder).layout.block_bytes
    engine = load(
        folder,
        max_sequences=4,
        max_num_tokens=21,
        kv_cache_bytes=8 * block_bytes,
        spare_rows=9,
    )
    for _ in range(2):
        found = run(engine, ways, propose, expected)
        assert told(found) == told(expected)
        check_log_probs(engine, found, expected)
    assert engine.scheduler.num_preempted > 0
    assert engine.scheduler.num_reused_blocks > 0
    assert engine.scheduler.pool.num_used == 0


def test_shapers_see_the_drafts_before_a_row(folder: Path) -> None:
    ways = [GREEDY, SEEDED]
    expected = run(load(folder), ways, shapers=(Odd(),))
    for each in expected:
        parities = np.array(each.output) % 2
        assert (parities[1:] != parities[:-1]).all()
    for propose in (oracle, wrong, chance):
        found = run(load(folder), ways, propose, expected, (Odd(),))
        assert told(found) == told(expected)


def test_a_quantized_engine_here_keeps_keys_and_values_in_int8(folder: Path) -> None:
    """So that the tests above are about these, too."""
    engine = OnnxEngine(folder)
    if engine.config.precision != "fp32" and can_attend_int8(1):
        assert engine.layout.kv_dtype == "int8"


def test_what_is_guessed_right_takes_fewer_steps(folder: Path) -> None:
    def steps(propose: Propose | None) -> int:
        engine, count = load(folder), 0
        sequence = Sequence(PROMPTS[1], GREEDY)
        engine.add(sequence)
        while engine.has_work:
            if propose is not None:
                sequence.drafts = propose(sequence, output)
            engine.step()
            count += 1
        return count

    (output,) = load(folder).generate([PROMPTS[1]], GREEDY)
    assert (steps(None), steps(wrong)) == (24, 24)
    # Six drafts and the token after them in each step, the prompt's too.
    assert steps(oracle) == 4
