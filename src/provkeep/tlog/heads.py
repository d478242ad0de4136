"""Tree heads of a log that is only read: the newest signed one, its roots, and a fresh pin.

Nothing here writes to the store, and nothing believes a key that stands in it: the log's public
key is the caller's, from outside.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from provkeep.errors import CheckpointError, PinError, PinMismatchError, ProofError
from provkeep.model.canonical import MAX_BODY
from provkeep.model.records import LOG_KEY
from provkeep.store.base import Transaction
from provkeep.tlog.checkpoint import LogPublicKey, verify_checkpoint
from provkeep.tlog.keychain import KeyChain
from provkeep.tlog.log import HASH, TILE, StoredTree
from provkeep.tlog.merkle import (
    Frontier,
    consistency_proof_from_ranges,
    leaf_hash,
    root_from_ranges,
)
from provkeep.tlog.pin import Pin

Ask = Callable[[str, Sequence[Any]], Iterable[tuple[Any, ...]]]
"""Answers SQL with rows: ``Store.query``, or the same of a store that is held still."""

FEW: Final = 500  # leaves that are hashed in the time in which one root is put together from tiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A signed tree head: what anchors are given."""

    note: str  # the checkpoint as the log signed it
    origin: str
    size: int  # records
    root: bytes  # 32 bytes


class View:
    """Records and hashes of a log, read and never written. Total on what a hostile file holds.

    Args:
        ask: answers SQL.
        schema: what the tables' names begin with, such as ``store.``.
    """

    def __init__(self, ask: Ask, schema: str = "") -> None:
        self._ask, self._schema = ask, schema

    def _rows(self, sql: str, *parameters: Any) -> Iterable[tuple[Any, ...]]:
        return self._ask(sql.format(self._schema), parameters)

    def size(self) -> int:
        """How many records the log has."""
        for (last,) in self._rows("SELECT max(seq) FROM {}record"):
            return 0 if last is None else int(last) + 1
        return 0

    def tile(self, level: int, index: int) -> bytes | None:
        """Concatenated hashes of one stored tile, or None when it is not one."""
        sql = "SELECT hashes FROM {}tile WHERE level=? AND idx=? LIMIT 1"
        for (hashes,) in self._rows(sql, level, index):
            whole = isinstance(hashes, bytes) and not len(hashes) % HASH
            return hashes if whole and len(hashes) <= TILE * HASH else None
        return None

    def bodies(self, start: int, stop: int) -> list[bytes]:
        """Stored bodies of records ``start <= seq < stop``; one that is not bytes is empty."""
        sql = "SELECT body FROM {}record WHERE seq>=? AND seq<? ORDER BY seq"
        rows = self._rows(sql, start, stop)
        return [body if isinstance(body, bytes) else b"" for (body,) in rows]

    def tree(self) -> StoredTree:
        """The log's hashes, from tiles and bodies; it remembers the tiles it has read."""
        return StoredTree(cast("Transaction", self))  # it asks for tiles and bodies only

    def root(self, size: int) -> bytes:
        """Return the root over the first ``size`` records, which must be there."""
        try:
            return root_from_ranges(self.tree().hash, size)
        except ProofError:  # a tile is missing or damaged; the leaves know as well
            return next(self._along([size]))[1]

    def roots(self, sizes: Iterable[int]) -> Iterator[tuple[int, bytes]]:
        """Roots at several sizes, none beyond the log, in ascending order, each size once."""
        wanted = sorted(set(sizes))
        if not wanted or len(wanted) * FEW < wanted[-1]:
            for size in wanted:
                yield size, self.root(size)
        else:
            yield from self._along(wanted)

    def _along(self, wanted: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        """Roots at ascending sizes, leaf by leaf."""
        frontier = Frontier()
        for size in wanted:
            while frontier.size < size:
                index, place = divmod(frontier.size, TILE)
                for leaf in self._leaves(index)[place : place + size - frontier.size] or [b""]:
                    frontier.append(leaf or leaf_hash(b""))  # what is not there has no hash
            yield size, frontier.root()

    def _leaves(self, index: int) -> list[bytes]:
        blob = self.tile(0, index)
        if blob is not None:
            return [blob[i : i + HASH] for i in range(0, len(blob), HASH)]
        return [leaf_hash(body) for body in self.bodies(index * TILE, (index + 1) * TILE)]

    def consistency(self, old: int, new: int) -> list[bytes]:
        """Return the proof that the first ``new`` records begin with the first ``old``."""
        return consistency_proof_from_ranges(self.tree().hash, old, new)

    def leads(self, old: LogPublicKey, start: int, new: LogPublicKey) -> bool:
        """Did ``old``, in force at ``start`` records, hand over to ``new`` since then?"""
        chain = KeyChain(old)
        sql = (
            "SELECT seq, body FROM {}record WHERE seq>=? AND typeof(body)='blob'"
            " AND length(body)<=? AND instr(body, ?) ORDER BY seq"
        )
        kind = f'"k":"{LOG_KEY}"'.encode()
        for seq, body in self._rows(sql, start, MAX_BODY, kind):
            try:
                if chain.rotate(seq, json.loads(body)).root != self.root(seq):
                    return False
            except (ValueError, AttributeError, RecursionError, CheckpointError):
                continue  # no change of keys that counts
        return chain.current == new

    def newest_head(self, public: LogPublicKey) -> Head:
        """Return the largest tree head that the log signed.

        Raises:
            CheckpointError: there is none, or the largest is not signed by ``public``.
        """
        for _, note in self._rows("SELECT size, note FROM {}checkpoint ORDER BY size DESC LIMIT 1"):
            if not isinstance(note, str):
                break
            stated = verify_checkpoint(note, public)
            return Head(note=note, origin=stated.origin, size=stated.size, root=stated.root)
        raise CheckpointError(public.origin, "the store holds none; record and flush first")


def check_head(view: View, head: Head) -> None:
    """Raise unless the records lead to this head.

    Raises:
        PinMismatchError: the log is shorter, or its records are others.
    """
    have = view.size()
    if have < head.size:
        problem = f"the log has {have} records and its newest checkpoint signs {head.size}"
        raise PinMismatchError(problem)
    if view.root(head.size) != head.root:
        raise PinMismatchError("the records do not lead to the root of the newest checkpoint")


def check_pin(view: View, public: LogPublicKey, pin: Pin) -> None:
    """Raise unless the log begins with what a pin remembers, and has its key or a later one.

    Raises:
        PinMismatchError: it is another log, was cut, or its history was rewritten.
    """
    if pin.origin != public.origin:
        raise PinMismatchError("it remembers another log")
    have = view.size()
    if have < pin.size:
        problem = f"it remembers {pin.size} records, the log has {have}: cut or rolled back"
        raise PinMismatchError(problem)
    known = LogPublicKey.from_vkey(pin.vkey)
    if known != public and not view.leads(known, pin.size, public):
        raise PinMismatchError("it remembers another log key, which did not hand over to this one")
    if view.root(pin.size) != pin.root:
        raise PinMismatchError("the log does not begin with what it remembers: it was rewritten")


def fresh_pin(view: View, public: LogPublicKey, *older: Pin) -> Pin:
    """Return a pin of the log as it is now signed, if it continues every older one.

    Args:
        view: the log.
        public: its key, known from outside.
        older: pins that were kept until now.

    Raises:
        PinMismatchError: the log is not a continuation of one of them, or of its own checkpoint.
        CheckpointError: nothing in the store is signed with this key.
    """
    for pin in older:
        check_pin(view, public, pin)
    head = view.newest_head(public)
    check_head(view, head)
    if any(pin.size > head.size for pin in older):
        raise PinError("it remembers more records than the newest checkpoint signs")
    return Pin(origin=head.origin, size=head.size, root=head.root, vkey=public.vkey())
