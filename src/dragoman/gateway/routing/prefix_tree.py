"""What each replica has in its prefix cache, as far as this process knows: block hashes of the prompts it was sent.

A block is 128 tokens, or 512 bytes of the rendered messages where the tokens are not known. Its hash includes the block
before it, so that equal hashes mean equal prompts up to there, and a set of hashes is a tree. Hashes are equal in all
processes.
"""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence

TOKENS_PER_BLOCK = 128
BYTES_PER_BLOCK = 512

MAX_BLOCKS = 16_384
"""Blocks per replica that has not reported the size of its cache: 2 Mi tokens, some 3 MB of memory here."""

_DIGEST_BYTES = 8

Blocks = tuple[bytes, ...]
"""The hashes of a prompt's whole blocks, first block first."""


def hash_tokens(token_ids: Sequence[int], *, adapter: str = "", cache_salt: str = "") -> Blocks:
    """Return the hashes of the whole blocks of a tokenized prompt."""
    size = TOKENS_PER_BLOCK
    ends = range(size, len(token_ids) + 1, size)
    blocks = (array("q", token_ids[end - size : end]).tobytes() for end in ends)
    return tuple(_chain(blocks, ("tokens", adapter, cache_salt)))


def hash_text(rendered: str, *, adapter: str = "", cache_salt: str = "") -> Blocks:
    """Return the hashes of the whole blocks of rendered messages."""
    size = BYTES_PER_BLOCK
    data = rendered.encode("utf-8", "surrogatepass")
    blocks = (data[end - size : end] for end in range(size, len(data) + 1, size))
    return tuple(_chain(blocks, ("text", adapter, cache_salt)))


def _chain(blocks: Iterable[bytes], root: tuple[str, ...]) -> Iterator[bytes]:
    """Hash each block with the one before it. The first one follows the root, whose parts are told apart."""
    previous = "".join(f"{len(part)}:{part}" for part in root).encode("utf-8", "surrogatepass")
    for block in blocks:
        previous = hashlib.blake2b(previous + block, digest_size=_DIGEST_BYTES).digest()
        yield previous


class PrefixTree:
    """The blocks in each replica's cache. The least recently used ones of a replica with too many are forgotten."""

    def __init__(self, max_blocks: int = MAX_BLOCKS) -> None:
        """`max_blocks` bounds each replica that has not reported the size of its cache."""
        self._max_blocks = max_blocks
        self._capacities: dict[str, int] = {}
        self._blocks: dict[str, OrderedDict[bytes, None]] = {}

    def record(self, replica: str, blocks: Blocks) -> None:
        """Note that the replica has computed this prompt: its first token has arrived."""
        cached = self._blocks.setdefault(replica, OrderedDict())
        # Last block first: a block must not outlive the ones before it, without which nothing finds it.
        for block in reversed(blocks):
            cached[block] = None
            cached.move_to_end(block)
        self._evict(replica)

    def count_matches(self, replica: str, blocks: Blocks) -> int:
        """Return how many of the first blocks are in the replica's cache."""
        cached = self._blocks.get(replica)
        if not cached:
            return 0
        for count, block in enumerate(blocks):
            if block not in cached:
                return count
        return len(blocks)

    def limit(self, replica: str, max_blocks: int) -> None:
        """Note the size of the replica's cache, as it reports it. Raises ValueError if it is negative."""
        if max_blocks < 0:
            raise ValueError(f"a cache of {max_blocks} blocks")
        self._capacities[replica] = max_blocks
        self._evict(replica)

    def forget(self, replica: str) -> None:
        """Forget a replica that was removed, or whose engine has restarted with an empty cache."""
        self._blocks.pop(replica, None)
        self._capacities.pop(replica, None)

    def count_blocks(self, replica: str) -> int:
        """Return how many blocks the replica is known to have."""
        return len(self._blocks.get(replica, ()))

    def _evict(self, replica: str) -> None:
        cached = self._blocks.get(replica, OrderedDict())
        excess = len(cached) - self._capacities.get(replica, self._max_blocks)
        for _ in range(excess):
            cached.popitem(last=False)
