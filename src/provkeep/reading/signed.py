"""What was signed, held against the tree as it grows: checkpoints, changes of keys, the pin."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from provkeep.errors import CheckpointError
from provkeep.model.canonical import MAX_BODY, MAX_INT
from provkeep.model.records import LOG_KEY
from provkeep.reading.findings import Findings
from provkeep.reading.frozen import FrozenStore
from provkeep.reading.tree import Regrown
from provkeep.tlog.checkpoint import Checkpoint, LogPublicKey, parse_checkpoint, verify_checkpoint
from provkeep.tlog.keychain import KeyChain
from provkeep.tlog.mldsa import SecondPublicKey, verify_second
from provkeep.tlog.pin import Pin


@dataclass(slots=True)
class Trust:
    """What a verifier knows from outside the store."""

    public: LogPublicKey | None = None  # the log's key, or its first
    later: tuple[LogPublicKey, ...] = ()  # keys it is known to have changed to
    second: SecondPublicKey | None = None  # signs every checkpoint besides
    pin: Pin | None = None


class Signed:
    """Meets every signed size in turn.

    Args:
        store: where the checkpoints are.
        trust: what is known.
        tree: grows; nothing of it below ``start`` is asked for.
        start: size of the pin from which on the log is looked at; 0 for all of it.
    """

    def __init__(
        self, store: FrozenStore, trust: Trust, tree: Regrown, out: Findings, start: int
    ) -> None:
        self._store, self._trust, self._tree, self._out = store, trust, tree, out
        self._start = start
        self.chain = _chain(store, trust, out, start)
        self._notes = self._stated()
        self._next = next(self._notes, None)
        self._last = 0  # size of the largest checkpoint with a good signature
        self._at_pin = False  # is there one at the size of the pin?
        self.size = 0  # of the largest checkpoint whose signature and root hold
        self.pinned = False

    def meet(self) -> None:
        """Hold the tree against what was signed or pinned at its present size."""
        size, pin = self._tree.size, self._trust.pin
        while self._next is not None and self._next[0].size <= size:
            stated, note = self._next
            self._next = next(self._notes, None)
            trusted = self._is_trusted(stated, note)
            if trusted is None:
                continue
            if trusted:
                self._last = stated.size
                self._at_pin |= pin is not None and pin.size == stated.size
            place = f"checkpoint {stated.size}"
            if self._tree.holds(stated.root, place, "checkpoint-root") and trusted:
                self.size = stated.size
        if pin is not None and pin.size == size:
            self.pinned = self._tree.holds(pin.root, "the pin", "pin-mismatch")
            if self.chain is not None and self.chain.current.vkey() != pin.vkey:
                self.pinned = False
                sentence = f"it remembers another key than the one that signed {size} records"
                self._out.error("pin-mismatch", "pin", sentence)

    def room(self) -> int:
        """How many more records there are before something is due, at least one."""
        size, pin = self._tree.size, self._trust.pin
        stated = size if self._next is None else self._next[0].size
        pinned = size if pin is None else pin.size
        return min([n - size for n in (stated, pinned) if n > size], default=MAX_INT)

    def is_due(self) -> bool:
        """Is something signed or pinned at the present size?"""
        size, pin = self._tree.size, self._trust.pin
        return (self._next is not None and self._next[0].size <= size) or (
            pin is not None and pin.size == size
        )

    def rotated(self, seq: int, fields: dict[str, Any]) -> None:
        """Follow a change of keys; the tree ends before the record that says so."""
        place = f"record {seq}"
        if self.chain is None:
            return
        try:
            found = self.chain.rotate(seq, fields)
        except CheckpointError as error:
            self._out.error("key-rotation", place, error.problem)
            return
        self._tree.holds(found.root, place, "key-rotation")
        sentence = f"the log changed its key, to {found.new.key_id.hex()}"
        self._out.info("key-rotation", place, sentence)

    def end(self) -> None:
        """Everything that speaks of the log as a whole."""
        out, size, pin = self._out, self._tree.size, self._trust.pin
        while self._next is not None:
            stated, note = self._next
            if self._is_trusted(stated, note):
                self._last = stated.size
            sentence = (
                f"it signs {stated.size} records, the log has {size}: the log was cut or replaced"
            )
            out.error("checkpoint-ahead", f"checkpoint {stated.size}", sentence)
            self._next = next(self._notes, None)
        if pin is not None and pin.size > size:
            sentence = f"it remembers {pin.size} records, the log has {size}: cut or rolled back"
            out.error("pin-ahead", "pin", sentence)
        if self.chain is None:
            return
        self._known_keys(self.chain.keys)
        if pin is not None and pin.size <= size and not self._at_pin:
            sentence = f"the checkpoint of {pin.size} records, which the pin remembers, is gone"
            out.error("checkpoint-missing", "table checkpoint", sentence)
        if not self._last:
            out.error("checkpoint-missing", "table checkpoint", "none is left that the log signed")
        if self._last < size:
            place = f"records {self._last}..{size - 1}"
            sentence = "they are not signed yet; whoever can write the file can change them"
            out.warning("unsigned-tail", place, sentence)

    def _known_keys(self, chain: list[LogPublicKey]) -> None:
        """Is every key that was given from outside one of those that signed?"""
        given = [k for k in (self._trust.public, *self._trust.later) if k is not None]
        if chain[0] in given:  # when only a part is looked at, older keys are not in it
            given = given[given.index(chain[0]) :]
        elif self._start:
            given = []
        for key in given:
            if key not in chain:
                sentence = (
                    f"the key {key.key_id.hex()}, which was given, never came to sign it: it was"
                    " rolled back, or another key was named by whoever held the one before"
                )
                self._out.error("key-rotation", "the log's keys", sentence)

    def _is_trusted(self, stated: Checkpoint, note: str) -> bool | None:
        """Did the key in force sign it? False when no key is known, None when it did not."""
        if self.chain is None:
            return False
        public = self.chain.current
        try:
            verify_checkpoint(note, public)
        except CheckpointError as error:
            names = {(s.name, s.key_id) for s in stated.signatures}
            ours = stated.origin == public.origin and (public.origin, public.key_id) in names
            code = "checkpoint-signature" if ours else "checkpoint-unknown-signer"
            problem = error.problem
            for _, key_id in names:
                at = self.chain.retired(key_id)
                if at is not None:
                    problem = f"key {key_id.hex()} signed it, which record {at} had replaced"
            self._out.error(code, f"checkpoint {stated.size}", problem)
            return None
        if self._trust.second is not None:
            try:
                verify_second(note, self._trust.second)
            except CheckpointError as error:
                place = f"checkpoint {stated.size}"
                self._out.error("checkpoint-signature", place, error.problem)
                return None
        return True

    def _stated(self) -> Iterator[tuple[Checkpoint, str]]:
        """Every checkpoint that states the size at which it stands."""
        sql = "SELECT size, note FROM store.checkpoint WHERE size >= ? OR typeof(size) <> 'integer'"
        low = self._start or -(2**63)
        for size, note in self._store.rows(f"{sql} ORDER BY size", (low,)):
            place = f"checkpoint {size}"
            if not isinstance(note, str):
                self._out.error("checkpoint-malformed", place, "it is not text")
                continue
            try:
                stated = parse_checkpoint(note)
            except CheckpointError as error:
                self._out.error("checkpoint-malformed", place, error.problem)
                continue
            if stated.size != size:
                sentence = f"it states another size, {stated.size}"
                self._out.error("checkpoint-malformed", place, sentence)
                continue
            yield stated, note


def _chain(store: FrozenStore, trust: Trust, out: Findings, start: int) -> KeyChain | None:
    """The keys, from the first that is known from outside; None when none is."""
    if trust.public is None:
        return None
    if start and trust.pin is not None:
        return KeyChain(LogPublicKey.from_vkey(trust.pin.vkey))
    first = _first_key(store.bodies(0, 1))
    if first is None or first == trust.public or first.origin != trust.public.origin:
        return KeyChain(trust.public)
    # It may be a later key. Then the records must lead to it, by signatures of the keys before.
    chain = KeyChain(first)
    sql = (
        "SELECT seq, body FROM store.record WHERE typeof(body) = 'blob' AND length(body) <= ?"
        " AND instr(body, ?) ORDER BY seq"
    )
    for seq, body in store.rows(sql, (MAX_BODY, f'"k":"{LOG_KEY}"'.encode())):
        try:
            chain.rotate(seq, orjson.loads(body))
        except (ValueError, AttributeError, CheckpointError):
            continue
        if trust.public in chain.keys:
            if trust.pin is None:
                sentence = (
                    f"a later key of this log was given: whoever holds it could have written"
                    f" records 0..{seq} as well; give the first key too, or a pin"
                )
                out.warning("key-not-first", "public key", sentence)
            return KeyChain(first)
    return KeyChain(trust.public)


def _first_key(bodies: Iterable[bytes]) -> LogPublicKey | None:
    """The key that record 0 names."""
    for body in bodies:
        try:
            return LogPublicKey.from_vkey(orjson.loads(body)["vkey"])
        except (ValueError, LookupError, TypeError, AttributeError, CheckpointError):
            return None
    return None
