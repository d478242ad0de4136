"""Does the log lead to what its anchors hold of it?

Three places are asked: the proofs that stand in the log as records, the last proof of each anchor
in the user's configuration, and the anchors that can be read from here (files, pins). A proof
counts if it checks with the keys in that configuration; then the log must lead to its head. Tiles
are read as they are stored: the walk before has compared them with the records.

What anchors hold is read before the store is, so that a recorder at work beside is never taken for
an anchor that knows too much; and once more when it seems to lack what the store says it was given.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from provkeep.errors import AnchorError, AnchorFileError, MissingExtraError
from provkeep.model.records import unb64
from provkeep.reading import shapes
from provkeep.reading.findings import Findings
from provkeep.reading.frozen import FrozenStore
from provkeep.tlog.anchor import Anchor, Proof
from provkeep.tlog.anchorbook import AnchorBook, State
from provkeep.tlog.checkpoint import Checkpoint, LogPublicKey
from provkeep.tlog.heads import View

Held = list[Checkpoint | None]

LATEST: Final = 253_402_300_799  # the last second that has a date, 9999-12-31


@dataclass(frozen=True, slots=True)
class _Read:
    """What was read of one anchor before the store."""

    anchor: Anchor
    state: State
    held: Held | str  # or why it cannot be read


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of the anchors, from outside the store."""

    anchors: tuple[_Read, ...] = ()
    quorum: int = 0


def gather(book: AnchorBook | None, out: Findings) -> Known:
    """Read what the anchors hold; to be done before the store is opened."""
    if book is None:
        return Known()
    try:
        states = book.states()
    except AnchorFileError as error:
        out.error("anchor-unreadable", "anchors", error.problem)
        states = {name: State() for name in book.anchors}
    anchors = [book.anchor(name) for name in states]
    read = tuple(_Read(each, states[each.name], _held(each)) for each in anchors)
    return Known(read, book.quorum)


def _held(anchor: Anchor) -> Held | str:
    try:
        return list(anchor.held())
    except AnchorError as error:
        return error.problem


@dataclass(slots=True)
class _Anchor:
    """One anchor, and what was found of it."""

    anchor: Anchor
    state: State
    held: Held | str
    size: int = 0  # of the largest head that it has seen, and that the log leads to
    at: int | None = None  # when, by its own clock
    given: set[tuple[int, bytes]] = field(default_factory=set)  # heads that the log says it got
    wrong: bool = False  # something was said of it already


@dataclass(frozen=True, slots=True)
class _Claim:
    """A head that an anchor vouches for."""

    root: bytes
    anchor: str
    place: str
    at: int | None


def check_anchors(
    store: FrozenStore,
    known: Known,
    public: LogPublicKey | None,
    size: int,
    records: list[int],
    out: Findings,
    start: int = 0,
) -> None:
    """Compare a log with its anchors.

    Args:
        store: the store, after its records were checked.
        known: the anchors, from outside the store; of others nothing is believed.
        public: the log's key, for its name.
        size: records of the log.
        records: numbers of the records that hold proofs.
        out: what is found.
        start: number of the first record that was looked at. Of the heads before it only the
            newest of each anchor is compared.
    """
    _Check(store, public, size, start, out).run(known, records)


class _Check:
    def __init__(
        self,
        store: FrozenStore,
        public: LogPublicKey | None,
        size: int,
        start: int,
        out: Findings,
    ) -> None:
        self._store, self._public, self._out = store, public, out
        self._size, self._start = size, start
        self._anchors: dict[str, _Anchor] = {}
        self._claims: dict[int, list[_Claim]] = {}  # by size
        self._unknown = 0

    def run(self, known: Known, records: list[int]) -> None:
        """Gather what anchors vouch for, and hold the log against it."""
        for read in known.anchors:
            self._anchors[read.anchor.name] = _Anchor(read.anchor, read.state, read.held)
        for seq in records:
            self._recorded(seq)
        for name, each in self._anchors.items():
            if each.state.proof is not None:
                kept = self._prove(each, each.state.proof, f"the proof kept of {name!r}")
                if kept is not None:
                    each.given.add((kept.size, kept.root))
            self._take_in(each)
        self._compare()
        for each in self._anchors.values():
            self._conclude(each)
        self._quorum(known.quorum)
        if self._unknown:
            sentence = f"{self._unknown} proofs in the log are of anchors that nobody named"
            self._out.info("anchor-unknown", "anchors", sentence)

    # -- what is vouched for -----------------------------------------------------------------------

    def _recorded(self, seq: int) -> None:
        body = (self._store.one("SELECT body FROM store.record WHERE seq=?", (seq,)) or (b"",))[0]
        fields = shapes.parse(body)
        if isinstance(fields, str):
            return  # it was said
        each = self._anchors.get(fields["anchor"])
        if each is None or each.anchor.kind != fields["type"]:
            self._unknown += 1
            return
        try:
            proof = _proof(fields)
        except ValueError:
            self._out.error("anchor-forged", f"record {seq}", "its time stamp is not base64")
            return
        shown = self._prove(each, proof, f"record {seq}")
        if shown is None:
            return
        if shown.size > seq:
            sentence = f"it is a proof of {shown.size} records, which were not there yet"
            self._out.error("anchor-forged", f"record {seq}", sentence)
        each.given.add((shown.size, shown.root))

    def _prove(self, each: _Anchor, proof: Proof, place: str) -> Checkpoint | None:
        """Check a proof and take it as a claim; None when it is none."""
        try:
            stated = proof.stated(each.anchor.name)
            at = each.anchor.check(proof)
        except MissingExtraError as error:
            if not each.wrong:
                self._out.error("anchor-unchecked", _named(each), str(error))
            each.wrong = True
            return None
        except AnchorError as error:
            self._out.error("anchor-forged", place, error.problem)
            return None
        if self._public is not None and stated.origin != self._public.origin:
            self._out.error("anchor-forged", place, "its proof is of another log")
            return None
        if each.anchor.kind in ("witness", "timestamp"):  # a file answers for itself
            self._claim(each, stated, place, at)
        return stated

    def _take_in(self, each: _Anchor) -> None:
        """Take in what was read from the anchor itself; it must hold what it was given."""
        kind, found, damaged = each.anchor.kind, False, 0
        missing = set(each.given)
        if isinstance(each.held, str):
            self._out.error("anchor-missing", _named(each), each.held)
            each.wrong = True
            return
        for number, stated in enumerate(each.held, 1):
            if stated is None:
                damaged += 1
            elif self._public is None or stated.origin == self._public.origin:
                found = True
                missing.discard((stated.size, stated.root))
                place = _named(each) if kind == "pin" else f"{_named(each)}, line {number}"
                self._claim(each, stated, place, None)
        if kind == "file" and missing:  # it may have been given them after it was read
            now = _held(each.anchor)
            missing -= set() if isinstance(now, str) else {(s.size, s.root) for s in now if s}
        if damaged:
            sentence = f"{damaged} of its lines are no checkpoints; they are passed over"
            self._out.warning("anchor-unchecked", _named(each), sentence)
        if kind == "file" and missing:
            sentence = f"{len(missing)} heads that it was given are not in it: cut, or changed"
            self._out.error("anchor-missing", _named(each), sentence)
            each.wrong = True
        elif kind == "pin" and not found:
            self._out.error("anchor-missing", _named(each), "it is a pin of another log")
            each.wrong = True

    def _claim(self, each: _Anchor, stated: Checkpoint, place: str, at: int | None) -> None:
        claim = _Claim(stated.root, each.anchor.name, place, at)
        self._claims.setdefault(stated.size, []).append(claim)

    # -- the log against it ------------------------------------------------------------------------

    def _compare(self) -> None:
        view = View(self._store.rows, "store.")
        within = {size for size in self._claims if self._start <= size <= self._size}
        within |= self._newest_before(self._start)
        for size, root in view.roots(within):
            for claim in self._claims[size]:
                each = self._anchors[claim.anchor]
                if claim.root != root:
                    sentence = f"the first {size} records are not those that were anchored"
                    self._out.error("anchor-mismatch", claim.place, sentence)
                    each.wrong = True
                elif size >= each.size:
                    each.size, each.at = size, _newest(claim.at, each.at)
        for size in sorted(size for size in self._claims if size > self._size):
            for claim in self._claims[size]:
                sentence = (
                    f"it has seen {size} records, the log has {self._size}: cut or rolled back"
                )
                self._out.error("anchor-ahead", claim.place, sentence)
                self._anchors[claim.anchor].wrong = True

    def _newest_before(self, start: int) -> set[int]:
        """The largest head of each anchor among those before the records that were looked at."""
        newest: dict[str, int] = {}
        for size in sorted(size for size in self._claims if size < start):
            newest.update({claim.anchor: size for claim in self._claims[size]})
        return set(newest.values())

    def _conclude(self, each: _Anchor) -> None:
        state, out, place = each.state, self._out, _named(each)
        if state.failures:
            sentence = f"{state.failures} times in a row: {state.problem}"
            out.warning("anchor-failing", place, sentence)
        if each.size:
            when = "" if each.at is None else f", at {_date(each.at)} by its clock"
            out.info("anchored", place, f"it has seen the first {each.size} records{when}")
        elif not each.wrong and each.anchor.kind != "witness":
            sentence = "it holds nothing of this log; run `provkeep anchor run`"
            out.error("anchor-missing", place, sentence)

    def _quorum(self, wanted: int) -> None:
        """So many witnesses must have seen the log; how much of it, by that many, is said."""
        witnesses = [a for a in self._anchors.values() if a.anchor.kind == "witness"]
        if not witnesses or not wanted:
            return
        seen = sorted((each.size for each in witnesses if each.size), reverse=True)
        if len(seen) < wanted:
            sentence = f"{len(seen)} of {len(witnesses)} witnesses have seen it, {wanted} must have"
            self._out.error("anchor-quorum", "witnesses", sentence)
        elif len(witnesses) > 1:
            sentence = f"{wanted} of them have seen the first {seen[wanted - 1]} records"
            self._out.info("anchored", "witnesses", sentence)


def _proof(fields: dict[str, Any]) -> Proof:
    return Proof(
        note=fields["note"], at_us=fields["at"], token=unb64(fields.get("token", "")) or b""
    )


def _named(each: _Anchor) -> str:
    return f"{each.anchor.kind} {each.anchor.name!r}"


def _newest(a: int | None, b: int | None) -> int | None:
    return a if b is None else b if a is None else max(a, b)


def _date(seconds: int) -> str:
    return datetime.fromtimestamp(min(seconds, LATEST), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
