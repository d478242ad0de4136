"""The log's tree grown again from the records, held against stored tiles and signed roots.

Only a signed root says which bytes are right. The stored tiles are leaf hashes that nobody signed
by themselves; but when the tiles lead to a signed root and the records do not, the tiles are the
old truth and name the record that was changed. Where they do not help, the culprit lies between
the last signed size that fits and the first that does not.
"""

from __future__ import annotations

from typing import Final

from provkeep.reading.findings import Findings
from provkeep.reading.frozen import FrozenStore
from provkeep.tlog.log import HASH, TILE, TILE_HEIGHT, StoredTree
from provkeep.tlog.merkle import Frontier, frontier_from_ranges, root_of

_NOTHING: Final = bytes(HASH)  # stands for a leaf that cannot be known
MAX_DIFFER: Final = 1_000  # records named one by one
_SAYS: Final = "is not the record whose hash is in the stored tile and under the signed root"


class Regrown:
    """A tree that grows leaf by leaf and compares as it goes.

    Args:
        store: where the tiles are.
        size: how large the store says the log is; full tiles are expected up to there.
        findings: where to say what does not fit.
    """

    def __init__(self, store: FrozenStore, size: int, findings: Findings) -> None:
        self._store, self._stated, self._out = store, size, findings
        self._main = Frontier()  # from the records
        self._other: Frontier | None = None  # from the tiles, where they differ
        self._differ: list[int] = []  # records whose tile says another hash
        self._good = 0  # the largest signed size whose root fits
        self._lost = False  # some signed root did not fit, and nothing says why
        self._tile: list[bytes] | None = None
        self._waiting: list[bytes | None] = []  # leaves of the present tile, not taken in yet
        self._leaves: list[bytes] = []  # of the tile that is being filled
        self._tiers: list[list[bytes]] = []  # node hashes of the tiles above, not full yet
        self._tiles = 0  # how many tiles there should be
        self._resumed = False
        self.size = 0  # leaves so far

    @classmethod
    def resume(cls, store: FrozenStore, size: int, findings: Findings, start: int) -> Regrown:
        """A tree that goes on from ``start`` leaves, as the stored tiles and bodies have them.

        Only its root says whether they are right: compare it with what was known before.
        """
        tree = cls(store, size, findings)
        stored = StoredTree(store)
        leaves = stored.tile(0, start // TILE)[: start % TILE] if start % TILE else []
        tier, above = 1, start // TILE
        while above:
            hashes = stored.tile(tier, above // TILE)[: above % TILE] if above % TILE else []
            tree._tiers.append(hashes)
            tier, above = tier + 1, above // TILE
        tree._main = frontier_from_ranges(stored.hash, start)
        tree._leaves, tree.size, tree._good = leaves, start, start
        tree._resumed = True
        tree._tiles = sum(start >> (TILE_HEIGHT * t) for t in range(1, tier))
        if start % TILE:
            tree._tile = tree._read(0, start // TILE, TILE) if tree._full(start) else None
        return tree

    def root(self) -> bytes:
        """The root over the leaves so far."""
        self._take_in()
        return self._main.root()

    def add(self, leaf: bytes | None) -> None:
        """Take in the leaf hash of the next record; None where there is none to hash."""
        self._waiting.append(leaf)
        self.size += 1
        if not self.size % TILE:
            self._take_in()

    def extend(self, leaves: list[bytes]) -> None:
        """Take in the leaf hashes of the next records."""
        at = 0
        while at < len(leaves):
            some = leaves[at : at + TILE - self.size % TILE]
            self._waiting += some
            self.size += len(some)
            at += len(some)
            if not self.size % TILE:
                self._take_in()

    def _take_in(self) -> None:
        """Compare the waiting leaves, all of one tile, with that tile, and grow by them."""
        waiting = self._waiting
        if not waiting:
            return
        number, node = self._main.size, b""
        place = number % TILE
        if place == 0:
            self._tile = self._read(0, number // TILE, TILE) if self._full(number) else None
        stored = self._tile[place : place + len(waiting)] if self._tile is not None else None
        if self._other is None and (waiting == stored if stored else None not in waiting):
            self._leaves += waiting  # type: ignore[arg-type]  # none of them is None
            if len(waiting) < TILE:
                self._main.extend(waiting)  # type: ignore[arg-type]
            else:
                node = root_of(self._leaves)
                self._main.push(node, TILE)
        else:
            for i, leaf in enumerate(waiting):
                self._weigh(leaf, stored[i] if stored else None)
        waiting.clear()
        if not self._main.size % TILE:
            if self._full(number):
                self._tiles += 1
            self._climb(0, node or root_of(self._leaves))
            self._leaves = []

    def _weigh(self, leaf: bytes | None, stored: bytes | None) -> None:
        """Take in one leaf of which record and tile may say different things."""
        number = self._main.size
        found = leaf or stored or _NOTHING
        if stored is not None and stored != found:
            if self._other is None:
                self._other = self._main.copy()
            if len(self._differ) < MAX_DIFFER:
                self._differ.append(number)
        self._main.append(found)
        if self._other is not None:
            self._other.append(stored or found)
        self._leaves.append(stored or found)

    def holds(self, root: bytes, what: str, code: str) -> bool:
        """Is the tree so far the one with this signed ``root``? Says so when it is not.

        Args:
            root: 32 bytes.
            what: who states it, such as "checkpoint 40".
            code: the finding when nothing better can be said.
        """
        self._take_in()
        size = self.size
        if self._main.root() == root:
            for number in self._differ:
                place = f"tile 0/{number // TILE}"
                self._out.error("tile", place, f"its hash of record {number} is not the record's")
            self._settle(size)
            return True
        if self._other is not None and self._other.root() == root:
            for number in self._differ:
                self._out.error("record-altered", f"record {number}", f"it {_SAYS}")
            self._main = self._other
            self._settle(size)
            return False
        if not self._lost and self._good < size:
            self._lost = True
            self._out.error(
                "record-altered",
                _between(self._good, size),
                f"one of them at least is not what was signed: they do not lead to the root that"
                f" {what} states, while the first {self._good} are as signed",
            )
        self._out.error(code, what, f"the first {size} records do not lead to its root")
        return False

    def _settle(self, size: int) -> None:
        self._other, self._good = None, size
        self._differ.clear()

    def finish(self, blob: bytes) -> None:
        """Compare with the stored right edge, and settle what no signature decided."""
        self._take_in()
        if self._other is not None and self._other.to_bytes() == blob:
            for number in self._differ:
                sentence = "it is not the record whose hash is in its tile and the tree head"
                self._out.error("record-altered", f"record {number}", sentence)
        else:
            if self._main.to_bytes() != blob:
                place = self._first_difference(blob)
                self._out.error("frontier", place, "the stored tree head does not follow from them")
            for number in self._differ:
                sentence = f"record {number} and its stored hash disagree, and no root decides"
                self._out.error("tile", f"tile 0/{number // TILE}", sentence)
        for tier, hashes in enumerate(self._tiers, 1):
            if hashes:
                self._compare(tier, hashes)
        if self._resumed:  # counting them all would cost as much as they are large
            return
        count = self._store.one("SELECT count(*) FROM store.tile") or (0,)
        if count[0] != self._tiles:
            sentence = f"there are {count[0]} tiles where {self._tiles} belong"
            self._out.error("tile", "table tile", sentence)

    def _first_difference(self, blob: bytes) -> str:
        """The records below the first subtree of the right edge that differs."""
        size, start, at = self._main.size, 0, 0
        ours = self._main.to_bytes()
        if len(blob) == len(ours):
            for level in range(size.bit_length() - 1, -1, -1):
                if size >> level & 1:
                    if ours[at : at + HASH] != blob[at : at + HASH]:
                        return _between(start, start + (1 << level))
                    start, at = start + (1 << level), at + HASH
        return _between(0, size)

    def _full(self, number: int) -> bool:
        return number // TILE < self._stated // TILE

    def _read(self, tier: int, index: int, count: int) -> list[bytes] | None:
        """The hashes of a stored tile; None, and a finding, when it is not one."""
        place = f"tile {tier}/{index}"
        row = self._store.one(
            "SELECT hashes FROM store.tile WHERE level=? AND idx=?", (tier, index)
        )
        if row is None:
            self._out.error("tile", place, "it is missing")
            return None
        if not isinstance(row[0], bytes) or len(row[0]) != count * HASH:
            self._out.error("tile", place, f"it does not hold {count} hashes")
            return None
        return [row[0][i : i + HASH] for i in range(0, len(row[0]), HASH)]

    def _climb(self, tier: int, node: bytes) -> None:
        """Put the hash of a full tile into the tile above it."""
        if tier == len(self._tiers):
            self._tiers.append([])
        hashes = self._tiers[tier]
        hashes.append(node)
        if len(hashes) == TILE:
            self._compare(tier + 1, hashes)
            node = root_of(hashes)
            self._tiers[tier] = []
            self._climb(tier + 1, node)

    def _compare(self, tier: int, hashes: list[bytes]) -> None:
        self._tiles += 1
        index = ((self._main.size >> (TILE_HEIGHT * tier)) - 1) // TILE
        stored = self._read(tier, index, len(hashes))
        if stored is not None and stored != hashes:
            sentence = "it does not follow from the tiles below it"
            self._out.error("tile", f"tile {tier}/{index}", sentence)


def _between(start: int, stop: int) -> str:
    """Words for the records ``start <= number < stop``."""
    if stop - start == 1:
        return f"record {start}"
    return f"records {start}..{stop - 1}" if stop > start else "no records"
