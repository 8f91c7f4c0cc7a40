"""Ids to text and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.bench_tokenizer import (
    FIRST_WORD,
    VOCAB_SIZE,
    text_of,
    tokens,
    word,
    write_tokenizer,
)
from benchmarks.workloads import WORKLOADS
from python_backend.text.tokenizer import TextTokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return TextTokenizer.load(folder)


def test_each_id_has_a_token_of_its_own() -> None:
    assert len(set(tokens())) == len(tokens()) == VOCAB_SIZE


@given(st.lists(st.integers(FIRST_WORD, VOCAB_SIZE - 1), max_size=50))
def test_text_has_the_ids_that_it_was_made_of(tokenizer: TextTokenizer, ids: list[int]) -> None:
    assert tokenizer.encode(text_of(ids), add_special_tokens=True).tolist() == ids


def test_the_detokenizer_knows_bytes_and_words(tokenizer: TextTokenizer) -> None:
    assert tokenizer.vocab_size == VOCAB_SIZE
    for byte in range(256):
        assert tokenizer.vocabulary.bytes_of(byte) == bytes([byte])
    assert tokenizer.vocabulary.bytes_of(VOCAB_SIZE - 1) == f" {word(VOCAB_SIZE - 1)}".encode()


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_a_workload_draws_prompts_that_text_can_carry(workload, tokenizer) -> None:
    prompts = workload.prompts(np.random.default_rng(0))
    assert len(prompts) == workload.concurrent
    assert {prompt.size for prompt in prompts} == {workload.shared + workload.own}
    beginnings = {prompt[: workload.shared].tobytes() for prompt in prompts}
    assert len(beginnings) == 1
    assert len({prompt.tobytes() for prompt in prompts}) == workload.concurrent
    ids = tokenizer.encode(text_of(prompts[0].tolist()), add_special_tokens=True)
    assert ids.tolist() == prompts[0].tolist()
