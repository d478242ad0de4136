"""Verification: is this store what was recorded, as far as that can be shown from outside?

No key that opens anything is needed or touched here. What is believed beforehand, the log's
public key and the pin, comes from the caller and never from the store. Every check is of values,
not of roots alone, over one committed state; nothing is written to the store or beside it, so it
works on a copy, on media that cannot be written, and beside a running recorder.
docs/THREATS.md says what a verified store proves, and what it does not.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from provkeep.errors import CheckpointError, NotAProvkeepFileError, PinError, StoreError
from provkeep.reading.checks import Seen, Walk, check_schema, stored_head
from provkeep.reading.findings import CODES, Finding, Findings, Report
from provkeep.reading.frozen import FrozenStore, is_still, require_file
from provkeep.reading.reindex import WholeIndex
from provkeep.reading.signed import Trust
from provkeep.reading.tree import Regrown
from provkeep.tlog.checkpoint import LogPublicKey
from provkeep.tlog.pin import Pin, read_pin

__all__ = ["CODES", "Finding", "Report", "verify"]


def verify(
    path: str | os.PathLike[str],
    *,
    pin: Pin | Path | None,
    public: LogPublicKey | str | None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Check a whole store; never raises for what is wrong with the store or the pin.

    Args:
        path: the database.
        pin: the tree head remembered outside the store, or the file that holds it. Without one
            an older copy, or a log signed anew with a stolen key, cannot be told.
        public: the log's public key, as an object or as its one line; by default the pin's.
            Without either nothing is believed, and the report is falsy.
        progress: called now and then with records done and records in all.

    Returns:
        a report; falsy when something is wrong.
    """
    where = Path(path).absolute()
    given = Findings()
    trust = _trust(pin, public, given)  # read before the store, so that it is not ahead of it
    still = is_still(where)
    out, seen = _check(where, trust, progress, still=still is not None)
    if still is not None and is_still(where) != still:
        out, seen = _check(where, trust, progress, still=False)  # a recorder began meanwhile
    return Report(
        findings=given.result() + out.result(),
        records=seen.records,
        payloads=seen.payloads,
        size=seen.size,
        root=seen.root.hex(),
        pinned=seen.pinned,
        signed_size=seen.signed_size,
    )


def _check(
    where: Path, trust: Trust, progress: Callable[[int, int], None] | None, *, still: bool
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
            if not out.has("schema-changed"):  # strange tables may make SQLite compute anything
                for line in store.damage():
                    out.error("integrity", "file", f"SQLite says: {line}")
            stated, frontier = stored_head(store, out)
            tree, index = Regrown(store, stated, out), WholeIndex(store, out)
            walk = Walk(store, trust, out, progress, tree=tree, index=index)
            seen = walk.seen
            walk.run(stated, frontier)
    except NotAProvkeepFileError as error:
        out.error("integrity" if seen.records else "not-a-database", "file", error.problem)
    except StoreError as error:
        cause = error.__cause__
        damaged = getattr(cause, "sqlite_errorname", "").startswith("SQLITE_CORRUPT")
        sentence = f"it could not be read to its end: {cause or error}"
        out.error("integrity" if damaged else "unreadable", "file", sentence)
    return out, seen


def _trust(pin: Pin | Path | None, public: LogPublicKey | str | None, out: Findings) -> Trust:
    """What the caller lets us believe; says what is missing."""
    trust = Trust()
    if isinstance(public, str):
        try:
            trust.public = LogPublicKey.from_vkey(public)
        except CheckpointError as error:
            out.error("no-key", "public key", f"the one that was given is none: {error.problem}")
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
    elif trust.public is None and public is None:
        trust.public = LogPublicKey.from_vkey(trust.pin.vkey)
    if trust.public is None and not out.has("no-key"):
        sentence = "name the log's public key (log.pub), or a pin, which holds it"
        out.error("no-key", "public key", sentence)
    return trust
