"""The paged KV cache: blocks of tokens, taken as sequences grow and given back when they end.

Pure bookkeeping lives in :class:`BlockPool`; :class:`KVMemory` is the memory that it speaks of.
Blocks that are full are remembered by what they hold, so that sequences which begin alike share
them; the least recently used of those that nobody uses make room when there is need.
"""

from __future__ import annotations

import ctypes
import hashlib
import mmap
from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.errors import EngineError
from python_backend.engine.attention import BLOCK_TOKENS, Layout

_BYTES = ctypes.POINTER(ctypes.c_uint8)


class BlockPool:
    """Which block holds what, and who uses it.

    A block is free, used by one or more sequences, or cached: full, remembered, used by nobody.

    Attributes:
        num_blocks: Blocks in all.
        block_tokens: Tokens of a block.
    """

    def __init__(self, num_blocks: int, block_tokens: int = BLOCK_TOKENS) -> None:
        self.num_blocks = num_blocks
        self.block_tokens = block_tokens
        self._free = list(range(num_blocks - 1, -1, -1))
        self._users = [0] * num_blocks
        self._digest_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}
        self._cached: OrderedDict[int, None] = OrderedDict()

    @property
    def num_available(self) -> int:
        """Blocks that can be taken: free ones, and cached ones that would be forgotten."""
        return len(self._free) + len(self._cached)

    @property
    def num_used(self) -> int:
        """Blocks that sequences use."""
        return self.num_blocks - self.num_available

    @property
    def num_cached(self) -> int:
        """Blocks that nobody uses and that hold a known prefix."""
        return len(self._cached)

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that so many tokens take."""
        return -(-num_tokens // self.block_tokens)

    def is_free(self, block: int) -> bool:
        """Whether a block is used by nobody and holds nothing of use."""
        return not self._users[block] and block not in self._digest_of

    def find(self, digests: list[bytes]) -> list[int]:
        """Take the cached or used blocks that hold the beginning of a sequence.

        Args:
            digests: What identifies each of the sequence's blocks, in order.

        Returns:
            The blocks, as far as they are known; each has one more user now.
        """
        blocks = []
        for digest in digests:
            block = self._block_of.get(digest)
            if block is None:
                break
            self._users[block] += 1
            self._cached.pop(block, None)
            blocks.append(block)
        return blocks

    def take(self, count: int) -> list[int]:
        """Take blocks to write into.

        Raises:
            IndexError: Fewer are available; none is taken.
        """
        if count > self.num_available:
            raise IndexError(f"{count} blocks wanted, {self.num_available} available")
        blocks = []
        for _ in range(count):
            if not self._free:
                oldest, _ = self._cached.popitem(last=False)
                self._forget(oldest)
                self._free.append(oldest)
            blocks.append(self._free.pop())
        for block in blocks:
            self._users[block] = 1
        return blocks

    def remember(self, block: int, digest: bytes) -> None:
        """Note what a full block holds, unless another block is known to hold the same."""
        if digest not in self._block_of and block not in self._digest_of:
            self._digest_of[block] = digest
            self._block_of[digest] = block

    def release(self, blocks: list[int]) -> list[int]:
        """Give blocks back, last ones first, so that the ends of prefixes are forgotten first.

        Returns:
            Those that hold nothing of use any more.
        """
        emptied = []
        for block in reversed(blocks):
            self._users[block] -= 1
            if self._users[block]:
                continue
            if block in self._digest_of:
                self._cached[block] = None
            else:
                self._free.append(block)
                emptied.append(block)
        return emptied

    def _forget(self, block: int) -> None:
        del self._block_of[self._digest_of.pop(block)]


def chain(digest: bytes, tokens: NDArray[np.int32]) -> bytes:
    """What identifies a full block: its tokens and, by the digest before it, all before them.

    Before the first block there is the ``root`` of a salt.
    """
    return hashlib.blake2b(digest + tokens.tobytes(), digest_size=16).digest()


def root(salt: bytes, rotary_start: int = 0) -> bytes:
    """What stands before a sequence's first block.

    So other salts lead to other digests, and other rotary embeddings, by which keys differ.
    """
    if not salt and not rotary_start:
        return b""
    key = rotary_start.to_bytes(8, "little") if rotary_start else b""
    return hashlib.blake2b(salt, digest_size=16, key=key, person=b"salt").digest()


class KVMemory:
    """The blocks themselves.

    The whole budget is reserved, and resident only where keys and values were written: the
    operating system's page table knows which. Blocks that hold nothing of use are given back to it.

    Attributes:
        blocks: ``[num_blocks, *layout.block_shape]``.
    """

    def __init__(self, layout: Layout, num_blocks: int) -> None:
        """Reserve the memory.

        Raises:
            EngineError: The machine can't reserve so much.
        """
        self._block_bytes = layout.block_bytes
        size_bytes = num_blocks * layout.block_bytes
        try:
            self._map = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except (OSError, OverflowError):
            raise EngineError(
                f"a KV cache of {size_bytes / 2**30:.0f} GiB can't be reserved: "
                "lower kv_cache_bytes"
            ) from None
        # A huge page would make memory resident that nothing was written to.
        self._map.madvise(mmap.MADV_NOHUGEPAGE)
        flat: NDArray[Any] = np.frombuffer(self._map, dtype=layout.dtype)
        self.blocks = flat.reshape(num_blocks, *layout.block_shape)

    @property
    def resident_bytes(self) -> int:
        """Physical memory of the blocks, as the operating system counts it."""
        pages = np.zeros(-(-len(self._map) // mmap.PAGESIZE), dtype=np.uint8)
        address, size = ctypes.c_void_p(self.blocks.ctypes.data), ctypes.c_size_t(len(self._map))
        if ctypes.CDLL(None, use_errno=True).mincore(address, size, pages.ctypes.data_as(_BYTES)):
            raise OSError(ctypes.get_errno(), "mincore failed")
        return int((pages & 1).sum()) * mmap.PAGESIZE

    def give_back(self, blocks: list[int]) -> None:
        """Return the memory of blocks to the operating system; they read as zeros then."""
        for block in blocks:
            start = -(-block * self._block_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
            end = (block + 1) * self._block_bytes // mmap.PAGESIZE * mmap.PAGESIZE
            if end > start:
                self._map.madvise(mmap.MADV_DONTNEED, start, end - start)
