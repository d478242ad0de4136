"""The log: records appended to a store, their tree, and signed tree heads.

A record is hashed as it is stored. The tree's right edge is kept in the store, so an append costs
two hashes; full tiles of 256 hashes (C2SP tlog-tiles) are kept so that any old root and any proof
is found by reading a few of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Protocol

from provkeep.errors import (
    CheckpointError,
    LogKeyError,
    PinError,
    ProofError,
    StoreReplacedError,
)
from provkeep.model.canonical import MAX_BODY, canonical
from provkeep.model.records import Pending
from provkeep.store.base import Store, Transaction
from provkeep.tlog.checkpoint import LogKey, LogPublicKey, parse_checkpoint
from provkeep.tlog.keychain import rotation_body
from provkeep.tlog.merkle import (
    Frontier,
    consistency_proof_from_ranges,
    inclusion_proof_from_ranges,
    leaf_hash,
    root_from_ranges,
    root_of,
)
from provkeep.tlog.pin import Pin

TILE_HEIGHT: Final = 8  # C2SP tlog-tiles: 2**8 hashes a tile
TILE: Final = 1 << TILE_HEIGHT
HASH: Final = 32


class Log:
    """Appends to the log of one store and signs its heads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._frontier = Frontier()  # the tree as this process last saw it
        self._tip = b""  # its last leaf hash, by which a log that was exchanged is noticed

    def append(
        self,
        pending: Iterable[Pending],
        *,
        durable: bool = False,
        only_first: bool = False,
        check: Callable[[Transaction], None] | None = None,
    ) -> None:
        """Append records in one transaction and tell each its number.

        Args:
            pending: the records, in order.
            durable: return only when the disk has them.
            only_first: append to an empty log, or not at all.
            check: called first, while nobody else can append; what it raises stops the append,
                and ``pending`` is read only after it.

        Raises:
            StoreError: the store refused; nothing was appended.
            ValueError: a body is not canonical or too large.
        """
        with self._store.transaction(durable=durable) as tx:
            frontier = self._head(tx)
            if only_first and frontier.size:
                return
            if check is not None:
                check(tx)
            payload, tip = tx.next_payload(), self._tip
            for record in pending:
                fields = record.body
                if record.envelopes:
                    fields["p0"] = payload
                body = canonical(fields)
                if len(body) > MAX_BODY:
                    raise ValueError(f"a record's body has {len(body)} bytes, at most {MAX_BODY}")
                tx.add(frontier.size, body, fields, record.envelopes)
                record.seq, record.p0 = frontier.size, payload
                payload += len(record.envelopes)
                tip = leaf_hash(body)
                frontier.append(tip)
                if not frontier.size % TILE:
                    _close_tile(tx, frontier.size)
            tx.set_head(frontier.size, frontier.to_bytes())
        self._frontier, self._tip = frontier, tip

    def _head(self, tx: Transaction) -> Frontier:
        """The stored tree head, which must continue what this process saw."""
        size, blob = tx.head()
        mine = self._frontier
        if size == mine.size:
            if blob != mine.to_bytes():
                raise StoreReplacedError(getattr(self._store, "path", "the store"))
            return mine.copy()
        if size < mine.size or (mine.size and _tip(tx, mine.size) != self._tip):
            raise StoreReplacedError(getattr(self._store, "path", "the store"))
        return Frontier.from_bytes(size, blob)

    def checkpoint(
        self, key: LogKey, others: Callable[[], Iterable[LogKey]] = tuple[LogKey]
    ) -> Pin:
        """Sign the current head, keep the checkpoint durably, and return it as a pin.

        Args:
            key: the log's key, as far as is known.
            others: other keys of this log on this host, asked for when the newest checkpoint is
                not signed with ``key``, because another process has changed it.

        Raises:
            StoreError: the store refused, or the log is not the one that was seen before.
            LogKeyError: the newest checkpoint is signed with none of these keys.
        """
        with self._store.transaction(durable=True) as tx:
            key = _in_force(tx, key, others)
            frontier = self._head(tx)
            tip = self._tip if frontier.size == self._frontier.size else _tip(tx, frontier.size)
            root = frontier.root()
            tx.add_checkpoint(frontier.size, key.sign_checkpoint(frontier.size, root))
        self._frontier, self._tip = frontier, tip
        return Pin(
            origin=key.public.origin,
            size=frontier.size,
            root=root,
            vkey=key.public.vkey(),
        )

    def rotate(
        self,
        key: LogKey,
        new: LogKey,
        *,
        at: int,
        others: Callable[[], Iterable[LogKey]] = tuple[LogKey],
    ) -> tuple[LogPublicKey, Pin]:
        """Append the record by which the log changes its key, and sign with the new one.

        Args:
            key: the log's key, as far as is known.
            new: the key that signs from now on.
            at: microseconds since 1970-01-01 UTC.
            others: as for ``checkpoint``.

        Returns:
            the key that was in force, and the new head.

        Raises:
            StoreError: the store refused, or the log is not the one that was seen before.
            LogKeyError: the newest checkpoint is signed with none of these keys.
        """
        with self._store.transaction(durable=True) as tx:
            key = _in_force(tx, key, others)
            frontier = self._head(tx)
            size, root = frontier.size, frontier.root()
            tx.add_checkpoint(size, key.sign_checkpoint(size, root))
            fields = rotation_body(key, new.public, size, root, at)
            body = canonical(fields)
            tx.add(size, body, fields, ())
            tip = leaf_hash(body)
            frontier.append(tip)
            if not frontier.size % TILE:
                _close_tile(tx, frontier.size)
            tx.set_head(frontier.size, frontier.to_bytes())
            root = frontier.root()
            tx.add_checkpoint(frontier.size, new.sign_checkpoint(frontier.size, root))
        self._frontier, self._tip = frontier, tip
        origin = new.public.origin
        return key.public, Pin(origin, frontier.size, root, new.public.vkey())


def _in_force(tx: Transaction, key: LogKey, others: Callable[[], Iterable[LogKey]]) -> LogKey:
    """The key that signed last, so that a key that was replaced meanwhile signs no more."""
    note = tx.newest_checkpoint()
    try:
        signed = {s.key_id for s in parse_checkpoint(note).signatures} if note else set()
    except CheckpointError:
        signed = set()  # verification says so; a log that goes on unsigned would hide more
    if not signed or key.public.key_id in signed:
        return key
    for other in others():
        if other.public.key_id in signed:
            return other
    raise LogKeyError(
        key.public.origin,
        f"the newest checkpoint is not signed with {key.public.key_id.hex()}, which is what this"
        " host has: the key was changed elsewhere (copy recorder.json from there), or the"
        " checkpoint is forged; run `provkeep verify`",
    )


def root_at(tx: Transaction, size: int) -> bytes:
    """Return the root over the first ``size`` records, from stored tiles and bodies.

    Raises:
        PinError: the log is shorter than that.
    """
    have, _ = tx.head()
    if have < size:
        raise PinError(f"the log has {have} records, the pin remembers {size}")
    return root_from_ranges(StoredTree(tx).hash, size)


def _tip(tx: Transaction, size: int) -> bytes:
    """The last of the first ``size`` leaf hashes; empty when there is no such record."""
    found = tx.bodies(size - 1, size)
    return leaf_hash(found[0]) if found else b""


class Tiles(Protocol):
    """Where hashes are stored: a transaction, or a store that is verified."""

    def tile(self, level: int, index: int) -> bytes | None:
        """Concatenated hashes of one tile, or None."""

    def bodies(self, start: int, stop: int) -> list[bytes]:
        """Stored bodies of records ``start <= seq < stop``, in order."""


def prove_inclusion(tx: Tiles, index: int, size: int) -> list[bytes]:
    """Return the proof that record ``index`` is among the first ``size``, from stored tiles.

    Raises:
        ProofError: the index is outside that tree, or the log is shorter.
    """
    return inclusion_proof_from_ranges(StoredTree(tx).hash, index, size)


def prove_consistency(tx: Tiles, old_size: int, new_size: int) -> list[bytes]:
    """Return the proof that the log of ``new_size`` only appended to that of ``old_size``.

    Raises:
        ProofError: the old size is the larger, or the log is shorter.
    """
    return consistency_proof_from_ranges(StoredTree(tx).hash, old_size, new_size)


class StoredTree:
    """Hashes of complete subtrees, from tiles where there are any and from bodies elsewhere."""

    def __init__(self, tx: Tiles) -> None:
        self._tx = tx
        self._tiles: dict[tuple[int, int], list[bytes]] = {}

    def hash(self, level: int, index: int) -> bytes:
        """The hash of the complete subtree (level, index); see ``tlog.merkle``."""
        tier, up = divmod(level, TILE_HEIGHT)
        width = 1 << up
        start = index * width
        hashes = self.tile(tier, start // TILE)
        at = start % TILE
        if at + width > len(hashes):
            raise ProofError(
                f"records {index << level}.. have a common hash",
                "the store has no such records, or a tile is missing; run `provkeep verify`",
            )
        return root_of(hashes[at : at + width])

    def tile(self, tier: int, index: int) -> list[bytes]:
        """The hashes of one tile, as many as there are."""
        found = self._tiles.get((tier, index))
        if found is None:
            blob = self._tx.tile(tier, index)
            if blob is not None:
                found = [blob[i : i + HASH] for i in range(0, len(blob), HASH)]
            elif tier == 0:
                found = [leaf_hash(b) for b in self._tx.bodies(index * TILE, (index + 1) * TILE)]
            else:
                found = []
            self._tiles[tier, index] = found
        return found


def _close_tile(tx: Transaction, size: int) -> None:
    """Keep the tile that the record before ``size`` filled, and its hash a tier up."""
    hashes = [leaf_hash(b) for b in tx.bodies(size - TILE, size)]
    tx.set_tile(0, size // TILE - 1, b"".join(hashes))
    tier, count = 1, size // TILE
    while True:
        node = root_of(hashes)
        index, place = divmod(count - 1, TILE)
        blob = (tx.tile(tier, index) or b"")[: place * HASH] + node
        tx.set_tile(tier, index, blob)
        if place != TILE - 1:
            return
        hashes = [blob[i : i + HASH] for i in range(0, len(blob), HASH)]
        tier, count = tier + 1, count // TILE
