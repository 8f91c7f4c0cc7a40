"""The KV cache: who uses which block, and what memory that takes."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest

from contract.errors import EngineError
from python_backend.engine.attention import BLOCK_TOKENS, Layout
from python_backend.engine.kv_cache import BlockPool, KVMemory, chain, root


def test_blocks_are_taken_and_given_back() -> None:
    pool = BlockPool(3)
    blocks = pool.take(2)
    assert (pool.num_used, pool.num_available) == (2, 1)
    with pytest.raises(IndexError, match="2 blocks wanted, 1 available"):
        pool.take(2)
    assert pool.num_available == 1
    assert sorted(pool.release(blocks)) == sorted(blocks)
    assert (pool.num_used, pool.num_available) == (0, 3)


def digests(*kinds: int) -> list[bytes]:
    """What identifies blocks that hold one token over and over."""
    chained = [b""]
    for kind in kinds:
        chained.append(chain(chained[-1], np.full(BLOCK_TOKENS, kind, dtype=np.int32)))
    return chained[1:]


def test_a_known_prefix_is_found_as_far_as_it_goes() -> None:
    pool = BlockPool(4)
    blocks = pool.take(2)
    for block, digest in zip(blocks, digests(1, 2), strict=True):
        pool.remember(block, digest)
    assert pool.release(blocks) == []
    assert pool.num_cached == 2
    assert pool.find(digests(1, 3, 2)) == blocks[:1]
    assert pool.find(digests(1, 2, 9)) == blocks
    assert pool.find(digests(2, 1)) == []
    assert pool.num_used == 2


def test_the_end_of_a_prefix_is_forgotten_first() -> None:
    pool = BlockPool(2)
    blocks = pool.take(2)
    for block, digest in zip(blocks, digests(1, 2), strict=True):
        pool.remember(block, digest)
    pool.release(blocks)
    assert pool.take(1) == blocks[1:]
    assert pool.find(digests(1, 2, 3)) == blocks[:1]


def test_the_same_content_is_remembered_once() -> None:
    pool = BlockPool(2)
    one, two = pool.take(2)
    (digest,) = digests(1)
    pool.remember(one, digest)
    pool.remember(two, digest)
    assert pool.release([one, two]) == [two]


def test_a_shared_block_is_used_until_the_last_gives_it_back() -> None:
    pool = BlockPool(2)
    blocks = pool.take(1)
    pool.remember(blocks[0], *digests(1))
    assert pool.find(digests(1, 2)) == blocks
    assert pool.release(blocks) == []
    assert (pool.num_used, pool.num_available, pool.num_cached) == (1, 1, 0)
    assert pool.take(1) != blocks
    with pytest.raises(IndexError):
        pool.take(1)
    assert pool.release(blocks) == []
    assert (pool.num_used, pool.num_available, pool.num_cached) == (1, 1, 1)


def test_a_block_is_known_by_one_content() -> None:
    pool = BlockPool(1)
    blocks = pool.take(1)
    first, second = digests(1, 2)
    pool.remember(blocks[0], first)
    pool.remember(blocks[0], second)
    assert pool.find([second]) == []
    pool.release(blocks)
    pool.take(1)  # and something else is written there
    assert pool.find([first]) == pool.find([second]) == []


def test_a_block_is_free_where_nobody_uses_it_and_it_holds_nothing_of_use() -> None:
    pool = BlockPool(3)
    assert all(pool.is_free(block) for block in range(3))
    known, unknown = pool.take(2)
    pool.remember(known, *digests(1))
    assert [block for block in range(3) if pool.is_free(block)] == list(
        {0, 1, 2} - {known, unknown}
    )
    pool.release([known, unknown])
    assert (pool.is_free(known), pool.is_free(unknown)) == (False, True)
    pool.release(pool.take(3))
    assert pool.is_free(known)


def test_a_digest_is_of_16_bytes_and_a_salt_has_a_root_of_its_own() -> None:
    (digest,) = digests(1)
    assert len(digest) == len(root(b"acme")) == 16
    assert len({root(b""), root(b"acme"), root(b"globex"), digest}) == 4
    rotary = {root(salt, start) for salt in (b"", b"acme") for start in (0, 64, 4096)}
    assert len(rotary) == 6


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def test_memory_is_resident_only_where_it_was_written() -> None:
    layout = Layout(num_layers=4, num_heads=8, num_kv_heads=4, head_dim=64)
    before = resident_bytes()
    memory = KVMemory(layout, 512)
    assert resident_bytes() - before < 8 << 20
    assert memory.resident_bytes < 1 << 20
    memory.blocks[100:300] = 1
    assert memory.resident_bytes == 200 * layout.block_bytes
    written = 200 * layout.block_bytes
    assert resident_bytes() - before == pytest.approx(written, rel=0.04)
    memory.give_back(list(range(100, 300)))
    assert resident_bytes() - before < 8 << 20
    assert not memory.blocks[100:300].any()
    memory.blocks[0] = 1
    assert memory.blocks[0].all()


@pytest.mark.parametrize(("head_dim", "pages_left"), [(8, 16), (24, 48), (64, 120), (136, 257)])
def test_memory_is_given_back_page_by_page_and_none_of_a_neighbour(
    head_dim: int, pages_left: int
) -> None:
    """Blocks of less than a page, of two pages, and such that begin within one."""
    layout = Layout(num_layers=1, num_heads=2, num_kv_heads=1, head_dim=head_dim)
    memory = KVMemory(layout, 64)
    memory.blocks[:] = 1
    memory.give_back([0, 20, 22, 63])
    kept = [block for block in range(64) if block not in (0, 20, 22, 63)]
    assert (memory.blocks[kept] == 1).all()
    assert memory.resident_bytes == pages_left * 4096


def test_a_cache_that_can_not_be_reserved_is_named() -> None:
    layout = Layout(num_layers=4, num_heads=8, num_kv_heads=4, head_dim=64)
    with pytest.raises(EngineError, match=r"KV cache of \d+ GiB can't be reserved: lower kv_cache"):
        KVMemory(layout, 1 << 42)


@pytest.mark.parametrize("head_dim", [8, 24, 40])
def test_no_other_block_loses_what_shares_a_page_with_one_that_is_given_back(head_dim: int) -> None:
    memory = KVMemory(Layout(1, 1, 1, head_dim), 16)
    memory.blocks[:] = 1
    given = [1, 5, 6, 7, 8, 9, 15]
    memory.give_back(given)
    kept = [block for block in range(16) if block not in given]
    assert (memory.blocks[kept] == 1).all()
