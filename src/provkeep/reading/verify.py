"""Verification: is this store what was recorded, as far as that can be shown from outside?

No key that opens anything is needed or touched here. What is believed beforehand, the log's
public key and the pin, comes from the caller and never from the store. Every check is of values,
not of roots alone, over one committed state; nothing is written to the store or beside it, so it
works on a copy, on media that cannot be written, and beside a running recorder.
docs/THREATS.md says what a verified store proves, and what it does not.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Final

from provkeep.errors import (
    AnchorError,
    AnchorFileError,
    CheckpointError,
    LogKeyError,
    NotAProvkeepFileError,
    PinError,
    ProofError,
    StoreError,
)
from provkeep.reading.anchored import Known, check_anchors, gather
from provkeep.reading.checks import Progress, Seen, Walk, check_schema, stored_head
from provkeep.reading.findings import CODES, Finding, Findings, Report
from provkeep.reading.frozen import FrozenStore, is_still, require_file
from provkeep.reading.keychecks import check_keys
from provkeep.reading.reindex import WholeIndex
from provkeep.reading.signed import Trust
from provkeep.reading.since import NewIndex
from provkeep.reading.tree import Regrown
from provkeep.tlog.anchorbook import AnchorBook, read_book
from provkeep.tlog.checkpoint import LogPublicKey
from provkeep.tlog.mldsa import read_keys
from provkeep.tlog.pin import Pin, read_pin

__all__ = ["CODES", "Finding", "Report", "verify"]


class _Seldom:
    """Cyclic garbage is looked for less often meanwhile.

    Rows are read by the million, none of which is part of a cycle. Verifications may run side by
    side: the last one puts back what the first one found.
    """

    def __init__(self) -> None:
        self._lock, self._inside = Lock(), 0
        self._before = gc.get_threshold()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before = gc.get_threshold()
                if self._before[0]:  # else it is off
                    gc.set_threshold(max(SELDOM, self._before[0]), *self._before[1:])
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                gc.set_threshold(*self._before)


SELDOM: Final = 50_000  # objects made and kept before those are looked at; a few MB
_SELDOM: Final = _Seldom()


def verify(
    path: str | os.PathLike[str],
    *,
    pin: Pin | Path | None,
    public: LogPublicKey | str | None,
    anchors: AnchorBook | Path | None = None,
    since: bool = False,
    strict: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Check a whole store; never raises for what is wrong with the store or the pin.

    Args:
        path: the database.
        pin: the tree head remembered outside the store, or the file that holds it. Without one
            an older copy, or a log signed anew with a stolen key, cannot be told.
        public: the log's public key, as an object or as its one line; by default the pin's.
            Without either nothing is believed, and the report is falsy. Of a log that changed its
            key, the first; more lines are keys that it is known to have changed to. A line of
            type 6 is its second key, which must have signed every checkpoint too.
        anchors: which anchors there are and how to check them, or the file that says so. Proofs
            that stand in the store prove nothing without it.
        since: look at the records after the pin only, in time proportional to them. What came
            before is taken as it was when the pin was made; the report says so.
        strict: a warning makes the report falsy, too.
        progress: called now and then with records done and records in all.

    Returns:
        a report; falsy when something is wrong.
    """
    where = Path(path).absolute()
    given = Findings()
    trust = _trust(pin, public, given)  # read before the store, so that it is not ahead of it
    book = _book(anchors, given)
    known = gather(book, given)
    still = is_still(where)
    check = _check_new if since else _check_all
    with _SELDOM:
        out, seen = _check(where, trust, known, progress, check, still=still is not None)
        if still is not None and is_still(where) != still:  # a recorder began meanwhile
            out, seen = _check(where, trust, known, progress, check, still=False)
    return Report(
        findings=given.result() + out.result(),
        records=seen.records,
        payloads=seen.payloads,
        size=seen.size,
        root=seen.root.hex(),
        pinned=seen.pinned,
        signed_size=seen.signed_size,
        since=trust.pin.size if since and trust.pin is not None else 0,
        keys=seen.keys,
        strict=strict,
    )


def _check(
    where: Path,
    trust: Trust,
    known: Known,
    progress: Progress | None,
    check: Callable[[FrozenStore, Trust, Findings, Progress | None, Seen], None],
    *,
    still: bool,
) -> tuple[Findings, Seen]:
    out, seen = Findings(), Seen()
    try:
        require_file(where)
        with (
            TemporaryDirectory(prefix="provkeep-") as scratch,
            FrozenStore(where, Path(scratch), still=still) as store,
        ):
            if not check_schema(store, out):
                return out, seen
            check(store, trust, out, progress, seen)
            if seen.size or check is _check_all:  # else it was not looked at
                start = trust.pin.size if check is _check_new and trust.pin is not None else 0
                check_anchors(store, known, trust.public, seen.size, seen.anchors, out, start)
        check_keys(where, seen.use, out)  # after the store is let go: it may have moved on
    except NotAProvkeepFileError as error:
        out.error("integrity" if seen.records else "not-a-database", "file", error.problem)
    except StoreError as error:
        cause = error.__cause__
        damaged = getattr(cause, "sqlite_errorname", "").startswith("SQLITE_CORRUPT")
        sentence = f"it could not be read to its end: {cause or error}"
        out.error("integrity" if damaged else "unreadable", "file", sentence)
    return out, seen


def _check_all(
    store: FrozenStore, trust: Trust, out: Findings, progress: Progress | None, seen: Seen
) -> None:
    if not out.has("schema-changed"):  # strange tables may make SQLite compute anything
        for line in store.damage():
            out.error("integrity", "file", f"SQLite says: {line}")
    stated, frontier = stored_head(store, out)
    tree, index = Regrown(store, stated, out), WholeIndex(store, out)
    Walk(store, trust, out, progress, seen, tree=tree, index=index).run(stated, frontier)


def _check_new(
    store: FrozenStore, trust: Trust, out: Findings, progress: Progress | None, seen: Seen
) -> None:
    """What came after the pin. The tree before it is as stored, and must lead to the pin's root."""
    pin = trust.pin
    if pin is None:
        out.error("pin-unreadable", "pin", "without one there is nothing to begin from")
        return
    stated, frontier = stored_head(store, out)
    if pin.size > stated:
        sentence = f"it remembers {pin.size} records, the log has {stated}: cut or rolled back"
        out.error("pin-ahead", "pin", sentence)
        return
    try:
        tree = Regrown.resume(store, stated, out, pin.size)
        found = tree.root()
    except ProofError:
        found = b""
    if found != pin.root:
        sentence = "the stored hashes do not lead to its root; verify the whole log to learn more"
        out.error("pin-mismatch", "pin", sentence)
        return
    index = NewIndex(store, out, pin.size)
    walk = Walk(store, trust, out, progress, seen, tree=tree, index=index, start=pin.size)
    walk.run(stated, frontier)
    sentence = (
        f"the first {pin.size} records, their payloads and index rows were not read again, nor the"
        " pages of the file; index rows that follow from no record were looked for in part"
    )
    out.info("not-checked", "store", sentence)


def _book(anchors: AnchorBook | Path | None, out: Findings) -> AnchorBook | None:
    """The anchors that the caller lets us believe."""
    if not isinstance(anchors, Path):
        return anchors
    try:
        return read_book(anchors)
    except (AnchorError, AnchorFileError) as error:
        out.error("anchor-unreadable", "anchors", error.problem)
    return None


def _trust(pin: Pin | Path | None, public: LogPublicKey | str | None, out: Findings) -> Trust:
    """What the caller lets us believe; says what is missing."""
    trust = Trust()
    if isinstance(public, str):
        try:
            given = read_keys(public)
            trust.public, *later = given.ed25519 or (None,)
            trust.later, trust.second = tuple(k for k in later if k is not None), given.second
        except CheckpointError as error:
            out.error("no-key", "public key", f"the one that was given is none: {error.problem}")
        except LogKeyError as error:
            out.error("no-key", "public key", error.problem)
    else:
        trust.public = public
    if isinstance(pin, Pin):
        trust.pin = pin
    elif pin is not None:
        try:
            trust.pin = read_pin(pin)
        except PinError as error:
            out.error("pin-unreadable", "pin", error.problem)
    if trust.pin is None:
        sentence = "an older copy, or a log signed anew with a stolen key, would not show"
        out.warning("unpinned", "pin", sentence)
    elif trust.public is None and not out.has("no-key"):
        trust.public = LogPublicKey.from_vkey(trust.pin.vkey)
    if trust.public is None and not out.has("no-key"):
        sentence = "name the log's public key (log.pub), or a pin, which holds it"
        out.error("no-key", "public key", sentence)
    return trust
