"""The KV cache: rows that move."""

from __future__ import annotations

import numpy as np
import pytest

from python_backend.engine.config import EngineConfig
from python_backend.engine.kv_cache import KVCache
from python_backend.errors import EngineError

CONFIG = EngineConfig(
    architecture="LlamaForCausalLM",
    precision="fp32",
    vocab_size=11,
    num_layers=3,
    num_kv_heads=2,
    head_dim=4,
    context_length=8,
    end_token_ids=(0,),
    pad_token_id=0,
)


def test_there_is_room_for_the_whole_context_of_each_row() -> None:
    cache = KVCache(CONFIG, num_rows=5)
    assert cache.num_rows == 5
    assert [array.shape for layer in cache.layers for array in layer] == [(5, 2, 8, 4)] * 6


def test_more_than_there_can_be_is_refused_with_what_to_lower() -> None:
    endless = CONFIG.model_copy(update={"context_length": 2**44})
    with pytest.raises(EngineError) as error:
        KVCache(endless, num_rows=5)
    assert str(error.value) == (
        "a KV cache for 5 sequences of 17592186044416 tokens takes 15728640 GiB, more than can be "
        "reserved: lower max_num_sequences, or build the engine with a shorter context"
    )


def test_a_move_copies_the_first_tokens_of_every_layer_and_nothing_else() -> None:
    cache = KVCache(CONFIG, num_rows=3)
    arrays = [array for layer in cache.layers for array in layer]
    for index, array in enumerate(arrays):
        array[:] = np.random.default_rng(index).random(array.shape)
    before = [array.copy() for array in arrays]
    cache.move(source=2, target=0, tokens=5)
    for array, old in zip(arrays, before, strict=True):
        assert np.array_equal(array[0, :, :5], old[2, :, :5])
        assert np.array_equal(array[0, :, 5:], old[0, :, 5:])
        assert np.array_equal(array[1:], old[1:])
