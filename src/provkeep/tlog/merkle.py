"""The Merkle tree of the transparency log: roots, inclusion proofs, consistency proofs.

Pure functions over hashes: nothing here reads a database, a key or a clock, so a
proof can be checked on a machine that has only this file. Follows RFC 9162, section 2.1.

Hashes are SHA-256, 32 bytes. A *complete subtree* is named by (level, index): it spans the
``2**level`` leaves from ``index * 2**level`` on; level 0 is a leaf hash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from hashlib import sha256

from provkeep.errors import ProofError

HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()  # RFC 9162, section 2.1.1

HashRange = Callable[[int, int], bytes]
"""Answers (level, index) with the hash of that complete subtree; a store has them as tiles."""

WHOLE = 256  # leaves whose subtree ``Frontier.extend`` hashes level by level

_LEAF_PREFIX = b"\x00"
_NODE_PREFIX = b"\x01"


def leaf_hash(body: bytes) -> bytes:
    """Return the hash of one entry: SHA-256(0x00 || body)."""
    return sha256(_LEAF_PREFIX + body).digest()


def leaf_hashes(bodies: Sequence[bytes]) -> list[bytes]:
    """Return the hashes of many entries."""
    return [sha256(_LEAF_PREFIX + body).digest() for body in bodies]


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node: SHA-256(0x01 || left || right)."""
    return sha256(_NODE_PREFIX + left + right).digest()


class Frontier:
    """The right edge of a growing tree: all that is needed to append and to give the root.

    Holds one hash for each bit set in ``size`` (a *compact range*), so it stays under 2 KB and an
    append costs two hashes on average.
    """

    __slots__ = ("_hashes", "_size")

    def __init__(self) -> None:
        self._size = 0
        self._hashes: list[bytes] = []  # complete subtrees, widest first

    @property
    def size(self) -> int:
        """Number of leaves appended."""
        return self._size

    def append(self, leaf_hash: bytes) -> None:
        """Add one leaf hash, 32 bytes, at the right."""
        if len(leaf_hash) != HASH_BYTES:
            raise ValueError(f"a leaf hash has {HASH_BYTES} bytes, got {len(leaf_hash)}")
        size, node = self._size, leaf_hash
        while size & 1:
            node = node_hash(self._hashes.pop(), node)
            size >>= 1
        self._hashes.append(node)
        self._size += 1

    def extend(self, leaf_hashes: Sequence[bytes]) -> None:
        """Add leaf hashes at the right; of many, whole subtrees at a time."""
        at, end = 0, len(leaf_hashes)
        while at < end:
            width = self._size & -self._size or WHOLE  # as far as the tree is aligned
            if width >= WHOLE and end - at >= WHOLE:
                self.push(root_of(leaf_hashes[at : at + WHOLE]), WHOLE)
                at += WHOLE
            else:
                self.append(leaf_hashes[at])
                at += 1

    def push(self, node: bytes, width: int) -> None:
        """Add the root of ``width`` leaves, a power of two; the size is a multiple of that."""
        size = self._size // width
        while size & 1:
            node = node_hash(self._hashes.pop(), node)
            size >>= 1
        self._hashes.append(node)
        self._size += width

    def root(self) -> bytes:
        """Return the root hash of the leaves so far, 32 bytes."""
        return _join(self._hashes)

    def copy(self) -> Frontier:
        """Return a frontier that grows on its own."""
        twin = Frontier()
        twin._size, twin._hashes = self._size, self._hashes.copy()
        return twin

    def to_bytes(self) -> bytes:
        """Return the hashes, widest subtree first, 32 bytes each."""
        return b"".join(self._hashes)

    @classmethod
    def from_bytes(cls, size: int, blob: bytes) -> Frontier:
        """Rebuild a frontier from its size and ``to_bytes``.

        Raises:
            ProofError: the number of hashes is not the one that ``size`` asks for.
        """
        if size < 0 or len(blob) != HASH_BYTES * size.bit_count():
            raise ProofError(
                f"{len(blob)} bytes are the frontier of a tree of {size} leaves",
                "it holds 32 bytes for each bit set in the size; rebuild it from the leaves",
            )
        frontier = cls()
        frontier._size = size
        frontier._hashes = [blob[at : at + HASH_BYTES] for at in range(0, len(blob), HASH_BYTES)]
        return frontier


def root_of(leaves: Sequence[bytes]) -> bytes:
    """Return the root hash over leaf hashes; the root of no leaves is SHA-256 of nothing."""
    level: Sequence[bytes] = leaves
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2], strict=False)
        # node_hash written out: this runs for every leaf that is verified
        above = [sha256(_NODE_PREFIX + left + right).digest() for left, right in pairs]
        if len(level) % 2:
            above.append(level[-1])  # an odd last node moves up unchanged
        level = above
    return level[0] if level else EMPTY_ROOT


def root_from_ranges(fetch: HashRange, size: int) -> bytes:
    """Return the root of the first ``size`` leaves in O(log n) fetches."""
    return _range_root(fetch, 0, size)


def frontier_from_ranges(fetch: HashRange, size: int) -> Frontier:
    """Return the frontier of the first ``size`` leaves in O(log n) fetches."""
    edge = b"".join(fetch(level, index) for level, index in _complete_subtrees(0, size))
    return Frontier.from_bytes(size, edge)


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Return the proof that ``leaves[index]`` is in the tree over these leaf hashes."""
    return inclusion_proof_from_ranges(_ranges_of(leaves), index, len(leaves))


def inclusion_proof_from_ranges(fetch: HashRange, index: int, size: int) -> list[bytes]:
    """Return the sibling hashes from leaf ``index`` upwards, in O(log n) fetches.

    Args:
        fetch: answers for complete subtrees within the first ``size`` leaves.
        index: zero-based position of the leaf; ``0 <= index < size``.
        size: number of leaves of the tree that the proof is for.

    Raises:
        ProofError: the index is outside the tree.

    Source: RFC 9162, section 2.1.3.1.
    """
    _check_index(index, size)
    siblings = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _left_width(end - start)
        if index < middle:
            siblings.append((middle, end))
            end = middle
        else:
            siblings.append((start, middle))
            start = middle
    return [_range_root(fetch, *sibling) for sibling in reversed(siblings)]


def consistency_proof(leaves: Sequence[bytes], old_size: int) -> list[bytes]:
    """Return the proof that these leaf hashes only append to their first ``old_size``."""
    return consistency_proof_from_ranges(_ranges_of(leaves), old_size, len(leaves))


def consistency_proof_from_ranges(fetch: HashRange, old_size: int, new_size: int) -> list[bytes]:
    """Return the consistency proof between two sizes, in O(log n) fetches.

    It is empty for equal sizes and for an old tree without leaves, of which every tree is an
    extension.

    Raises:
        ProofError: the old tree is larger than the new one.

    Source: RFC 9162, section 2.1.4.1.
    """
    _check_sizes(old_size, new_size)
    if old_size in (0, new_size):
        return []
    parts = []
    start, end = 0, new_size
    while end != old_size:
        middle = start + _left_width(end - start)
        if old_size <= middle:
            parts.append((middle, end))
            end = middle
        else:
            parts.append((start, middle))
            start = middle
    if start:  # the verifier knows the old root itself, but not a part of it
        parts.append((start, end))
    return [_range_root(fetch, *part) for part in reversed(parts)]


def root_from_inclusion_proof(leaf: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes:
    """Return the root hash that ``proof`` implies for one leaf.

    Args:
        leaf: leaf hash, 32 bytes.
        index: zero-based position of the leaf; ``0 <= index < size``.
        size: number of leaves in the tree.
        proof: sibling hashes from the leaf upwards, 32 bytes each.

    Raises:
        ProofError: the index is outside the tree, or the proof has the wrong length.

    Source: RFC 9162, section 2.1.3.2; checked against ``tests/vectors/rfc9162.json``.
    """
    _check_index(index, size)
    claim = f"leaf {index} is in the tree of size {size}"
    _check_hashes(claim, leaf, *proof)
    node, last, root = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise ProofError(claim, f"the proof is too long, with {len(proof)} hashes")
        if node & 1 or node == last:
            root = node_hash(sibling, root)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            root = node_hash(root, sibling)
        node, last = node >> 1, last >> 1
    if last:
        raise ProofError(claim, f"the proof is too short, with {len(proof)} hashes")
    return root


def check_consistency(
    old_size: int,
    old_root: bytes,
    new_size: int,
    new_root: bytes,
    proof: Sequence[bytes],
) -> None:
    """Check that the new tree only appended to the old one.

    Args:
        old_size: number of leaves of the earlier tree head; 0 is consistent with every tree.
        old_root: root hash of the earlier tree head, 32 bytes.
        new_size: number of leaves of the later tree head; ``old_size <= new_size``.
        new_root: root hash of the later tree head, 32 bytes.
        proof: as ``consistency_proof`` gives it, 32 bytes each.

    Raises:
        ProofError: the proof does not lead to both roots, or has the wrong length.

    Source: RFC 9162, section 2.1.4.2; checked against ``tests/vectors/rfc9162.json``.
    """
    _check_sizes(old_size, new_size)
    claim = f"the tree of size {new_size} extends the tree of size {old_size}"
    _check_hashes(claim, old_root, new_root, *proof)
    if old_size in (0, new_size):
        if proof:
            raise ProofError(claim, f"the proof must be empty, it has {len(proof)} hashes")
        if old_root != (EMPTY_ROOT if old_size == 0 else new_root):
            raise ProofError(claim, "the old root is not the root of that many leaves")
        if new_size == 0 and new_root != EMPTY_ROOT:
            raise ProofError(claim, "the new root is not the root of no leaves")
        return
    hashes = [*proof] if old_size & (old_size - 1) else [old_root, *proof]
    if not hashes:
        raise ProofError(claim, "the proof is empty")
    node, last = old_size - 1, new_size - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    old = new = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            raise ProofError(claim, f"the proof is too long, with {len(proof)} hashes")
        if node & 1 or node == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        node, last = node >> 1, last >> 1
    if last:
        raise ProofError(claim, f"the proof is too short, with {len(proof)} hashes")
    if old != old_root:
        raise ProofError(claim, "the proof does not lead to the old root: history was rewritten")
    if new != new_root:
        raise ProofError(claim, "the proof does not lead to the new root")


def _join(hashes: Sequence[bytes]) -> bytes:
    """Join complete subtrees, widest first, into one root."""
    if not hashes:
        return EMPTY_ROOT
    return reduce(lambda right, left: node_hash(left, right), reversed(hashes))


def _left_width(width: int) -> int:
    """The largest power of two smaller than ``width``: where RFC 9162 splits a tree."""
    return 1 << ((width - 1).bit_length() - 1)


def _complete_subtrees(start: int, end: int) -> Iterator[tuple[int, int]]:
    """Split leaves ``start..end`` into complete subtrees, widest first; ``start`` is aligned."""
    while start < end:
        level = (end - start).bit_length() - 1
        yield level, start >> level
        start += 1 << level


def _range_root(fetch: HashRange, start: int, end: int) -> bytes:
    return _join([fetch(level, index) for level, index in _complete_subtrees(start, end)])


def _ranges_of(leaves: Sequence[bytes]) -> HashRange:
    def fetch(level: int, index: int) -> bytes:
        return root_of(leaves[index << level : (index + 1) << level])

    return fetch


def _check_index(index: int, size: int) -> None:
    if not 0 <= index < size:
        raise ProofError(
            f"leaf {index} is in the tree of size {size}",
            "the index is outside the tree",
        )


def _check_sizes(old_size: int, new_size: int) -> None:
    if not 0 <= old_size <= new_size:
        raise ProofError(
            f"the tree of size {new_size} extends the tree of size {old_size}",
            "the old tree is larger, or a size is negative",
        )


def _check_hashes(claim: str, *hashes: bytes) -> None:
    if any(len(each) != HASH_BYTES for each in hashes):
        raise ProofError(claim, f"a hash does not have {HASH_BYTES} bytes")
