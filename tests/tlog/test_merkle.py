"""Proofs show what they claim, to published vectors and to a brute-force reading of the RFC."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provkeep.errors import ProofError
from provkeep.tlog.merkle import (
    EMPTY_ROOT,
    Frontier,
    check_consistency,
    consistency_proof,
    consistency_proof_from_ranges,
    inclusion_proof,
    inclusion_proof_from_ranges,
    leaf_hash,
    node_hash,
    root_from_inclusion_proof,
    root_from_ranges,
    root_of,
)

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "rfc9162.json").read_text()
)
ROOTS = [bytes.fromhex(root) for root in VECTORS["roots"]]
CT_LEAVES = [leaf_hash(bytes.fromhex(body)) for body in VECTORS["leaves"]]
LEAVES = [leaf_hash(n.to_bytes(4, "big")) for n in range(320)]


def mth(leaves: list[bytes]) -> bytes:
    """RFC 9162, section 2.1.1, word for word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return node_hash(mth(leaves[:k]), mth(leaves[k:]))


def rfc_path(m: int, leaves: list[bytes]) -> list[bytes]:
    """RFC 9162, section 2.1.3.1, word for word."""
    if len(leaves) == 1:
        return []
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if m < k:
        return [*rfc_path(m, leaves[:k]), mth(leaves[k:])]
    return [*rfc_path(m - k, leaves[k:]), mth(leaves[:k])]


def rfc_subproof(m: int, leaves: list[bytes], whole: bool) -> list[bytes]:
    """RFC 9162, section 2.1.4.1, word for word."""
    if m == len(leaves):
        return [] if whole else [mth(leaves)]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if m <= k:
        return [*rfc_subproof(m, leaves[:k], whole), mth(leaves[k:])]
    return [*rfc_subproof(m - k, leaves[k:], False), mth(leaves[:k])]


def hexes(hashes: list[bytes]) -> list[str]:
    return [each.hex() for each in hashes]


def proof_of(case: dict[str, Any]) -> list[bytes]:
    return [bytes.fromhex(each) for each in case["proof"]]


@pytest.mark.parametrize("size", range(9))
def test_roots_equal_the_published_reference_tree(size: int) -> None:
    frontier = Frontier()
    for leaf in CT_LEAVES[:size]:
        frontier.append(leaf)
    assert root_of(CT_LEAVES[:size]) == frontier.root() == ROOTS[size]
    assert frontier.size == size


@pytest.mark.parametrize("case", VECTORS["inclusion"])
def test_inclusion_proofs_equal_the_published_ones(case: dict[str, Any]) -> None:
    proof = inclusion_proof(CT_LEAVES[: case["size"]], case["index"])
    assert hexes(proof) == case["proof"]
    leaf = bytes.fromhex(case["leaf_hash"])
    root = root_from_inclusion_proof(leaf, case["index"], case["size"], proof_of(case))
    assert root.hex() == case["root"]


@pytest.mark.parametrize("case", VECTORS["consistency"])
def test_consistency_proofs_equal_the_published_ones(case: dict[str, Any]) -> None:
    old_size, new_size = case["old_size"], case["new_size"]
    assert hexes(consistency_proof(CT_LEAVES[:new_size], old_size)) == case["proof"]
    check_consistency(old_size, ROOTS[old_size], new_size, ROOTS[new_size], proof_of(case))


@pytest.mark.parametrize("size", [*range(65), 127, 128, 129, 255, 300])
def test_root_and_frontier_agree_with_the_definition(size: int) -> None:
    frontier = Frontier()
    for leaf in LEAVES[:size]:
        frontier.append(leaf)
    assert root_of(LEAVES[:size]) == frontier.root() == mth(LEAVES[:size])


def test_every_proof_up_to_64_leaves_agrees_with_the_definition() -> None:
    roots = [mth(LEAVES[:size]) for size in range(65)]
    for size in range(1, 65):
        leaves = LEAVES[:size]
        for index in range(size):
            proof = inclusion_proof(leaves, index)
            assert proof == rfc_path(index, leaves)
            assert root_from_inclusion_proof(leaves[index], index, size, proof) == roots[size]
            old_size = index + 1
            proof = consistency_proof(leaves, old_size)
            assert proof == rfc_subproof(old_size, leaves, True)
            check_consistency(old_size, roots[old_size], size, roots[size], proof)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.data())
def test_proofs_of_larger_trees_verify(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    leaves, root = LEAVES[:size], root_of(LEAVES[:size])
    proof = inclusion_proof(leaves, index)
    assert root_from_inclusion_proof(leaves[index], index, size, proof) == root
    old_root = root_of(LEAVES[:index])
    check_consistency(index, old_root, size, root, consistency_proof(leaves, index))


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 64), st.data())
def test_a_wrong_leaf_index_or_proof_does_not_lead_to_the_root(
    size: int, data: st.DataObject
) -> None:
    leaves, root = LEAVES[:size], root_of(LEAVES[:size])
    index = data.draw(st.integers(0, size - 1))
    other = data.draw(st.integers(0, size - 1).filter(lambda n: n != index))
    proof = inclusion_proof(leaves, index)
    assert root_from_inclusion_proof(leaves[other], index, size, proof) != root
    broken = data.draw(st.integers(0, len(proof) - 1))
    lie = [*proof]
    lie[broken] = bytes([lie[broken][0] ^ 1]) + lie[broken][1:]
    assert root_from_inclusion_proof(leaves[index], index, size, lie) != root
    for wrong_length in (proof[:-1], [*proof, root]):
        with pytest.raises(ProofError, match="too"):
            root_from_inclusion_proof(leaves[index], index, size, wrong_length)


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 64), st.data())
def test_a_rewritten_history_has_no_consistency_proof(size: int, data: st.DataObject) -> None:
    """The old tree held another leaf: neither the honest proof nor an altered one fits."""
    old_size = data.draw(st.integers(1, size - 1))
    changed = data.draw(st.integers(0, old_size - 1))
    rewritten = [*LEAVES[:size]]
    rewritten[changed] = leaf_hash(b"what never happened")
    old_root, new_root = root_of(LEAVES[:old_size]), root_of(rewritten)
    for proof in (
        consistency_proof(LEAVES[:size], old_size),
        consistency_proof(rewritten, old_size),
    ):
        with pytest.raises(ProofError):
            check_consistency(old_size, old_root, size, new_root, proof)
    honest = consistency_proof(LEAVES[:size], old_size)
    honest_root = root_of(LEAVES[:size])
    for lie in (honest[:-1], [*honest, honest_root], [*honest[:-1], leaf_hash(b"")]):
        with pytest.raises(ProofError):
            check_consistency(old_size, old_root, size, honest_root, lie)


def test_an_empty_tree_is_extended_by_every_tree_but_only_under_its_own_root() -> None:
    root = root_of(LEAVES[:5])
    assert consistency_proof(LEAVES[:5], 0) == []
    check_consistency(0, EMPTY_ROOT, 5, root, [])
    check_consistency(0, EMPTY_ROOT, 0, EMPTY_ROOT, [])
    for old_size, old_root, new_size, new_root, proof in (
        (0, root, 5, root, []),
        (0, EMPTY_ROOT, 5, root, [root]),
        (0, EMPTY_ROOT, 0, root, []),
        (5, root, 5, EMPTY_ROOT, []),
        (5, root, 5, root, [root]),
        (5, root, 4, root_of(LEAVES[:4]), []),
        (-1, root, 5, root, []),
        (3, root_of(LEAVES[:3]), 5, root, []),
        (3, b"short", 5, root, consistency_proof(LEAVES[:5], 3)),
    ):
        with pytest.raises(ProofError):
            check_consistency(old_size, old_root, new_size, new_root, proof)


def test_an_index_outside_the_tree_is_refused() -> None:
    for index, size in ((5, 5), (-1, 5), (0, 0)):
        with pytest.raises(ProofError, match="outside"):
            inclusion_proof(LEAVES[:size], index)
        with pytest.raises(ProofError, match="outside"):
            root_from_inclusion_proof(LEAVES[0], index, size, [])
    with pytest.raises(ProofError, match="larger"):
        consistency_proof(LEAVES[:3], 4)


def test_a_leaf_is_never_taken_for_an_inner_node() -> None:
    """Without the prefixes, a body made of two hashes would pass for their parent."""
    left, right = LEAVES[:2]
    assert leaf_hash(left + right) != node_hash(left, right)


class CountingTiles:
    """A store that can only answer for complete subtrees, and counts how often it is asked."""

    def __init__(self, size: int) -> None:
        self.size, self.fetches = size, 0
        self.levels = [LEAVES[:size]]
        while len(self.levels[-1]) > 1:
            below = self.levels[-1]
            self.levels.append(
                [node_hash(below[at], below[at + 1]) for at in range(0, len(below) - 1, 2)]
            )

    def __call__(self, level: int, index: int) -> bytes:
        self.fetches += 1
        assert (index + 1) << level <= self.size
        return self.levels[level][index]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 100, 255, 256, 300])
def test_proofs_from_complete_subtrees_need_few_fetches(size: int) -> None:
    tiles, most = CountingTiles(size), 2 * size.bit_length()
    assert root_from_ranges(tiles, size) == root_of(LEAVES[:size])
    assert tiles.fetches <= most
    for index in {0, 1 % size, size // 2, size - 1}:
        tiles.fetches = 0
        proof = inclusion_proof_from_ranges(tiles, index, size)
        assert proof == inclusion_proof(LEAVES[:size], index)
        assert tiles.fetches <= most
        tiles.fetches = 0
        proof = consistency_proof_from_ranges(tiles, index + 1, size)
        assert proof == consistency_proof(LEAVES[:size], index + 1)
        assert tiles.fetches <= most


@given(st.integers(0, 40), st.integers(0, 40))
def test_a_frontier_goes_on_from_its_stored_bytes(first: int, more: int) -> None:
    frontier = Frontier()
    for leaf in LEAVES[:first]:
        frontier.append(leaf)
    untouched = frontier.copy()
    restored = Frontier.from_bytes(first, frontier.to_bytes())
    for leaf in LEAVES[first : first + more]:
        restored.append(leaf)
    assert restored.root() == root_of(LEAVES[: first + more])
    assert (untouched.size, untouched.root()) == (first, root_of(LEAVES[:first]))


def test_a_frontier_of_another_size_is_refused() -> None:
    frontier = Frontier()
    for leaf in LEAVES[:5]:
        frontier.append(leaf)
    for size, blob in ((7, frontier.to_bytes()), (5, frontier.to_bytes()[:-1]), (-1, b"")):
        with pytest.raises(ProofError):
            Frontier.from_bytes(size, blob)
    with pytest.raises(ValueError, match="32 bytes"):
        frontier.append(b"short")
