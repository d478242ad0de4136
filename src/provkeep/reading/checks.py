"""The checks that make up a verification, over one frozen state of a store.

Nothing is taken from the store on trust: what it must say is derived from its records, and what
its records must be from roots signed by a key that was known beforehand.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from provkeep.errors import CheckpointError
from provkeep.model.canonical import MAX_BODY
from provkeep.reading import shapes
from provkeep.reading.findings import Findings
from provkeep.reading.frozen import FrozenStore, Row
from provkeep.reading.tree import Regrown
from provkeep.store import schema
from provkeep.tlog.checkpoint import LogPublicKey, parse_checkpoint, verify_checkpoint
from provkeep.tlog.merkle import leaf_hash
from provkeep.tlog.pin import Pin

MAX_GAP: Final = 100_000  # missing numbers in a row that are counted one by one
MAX_OBJECTS: Final = 1_000  # rows of sqlite_schema that are looked at
STEP: Final = 256  # records between two calls of ``progress``
STATISTICS: Final = ("sqlite_stat1", "sqlite_stat4")  # ANALYZE makes them; they hold no facts

Progress = Callable[[int, int], None]


@dataclass(slots=True)
class Trust:
    """What a verifier knows from outside the store."""

    public: LogPublicKey | None = None
    pin: Pin | None = None


@dataclass(slots=True)
class Seen:
    """What was counted on the way."""

    records: int = 0
    payloads: int = 0
    size: int = 0
    root: bytes = b""
    signed_size: int = 0
    pinned: bool = False


def check_schema(store: FrozenStore, out: Findings) -> bool:
    """Is it a provkeep file with the tables of this version? Only then is the rest worth asking."""
    mark = (store.one("PRAGMA store.application_id") or (0,))[0]
    version = (store.one("PRAGMA store.user_version") or (0,))[0]
    if mark != schema.APPLICATION_ID:
        out.error("not-a-database", "file", "it does not carry provkeep's mark")
        return False
    if version > schema.VERSION:
        sentence = f"it has schema {version}, this version knows {schema.VERSION}; upgrade provkeep"
        out.error("newer", "file", sentence)
        return False
    sql = "SELECT type, name, sql FROM store.sqlite_schema"
    found = Counter(
        (str(kind), str(name), str(text or ""))
        for kind, name, text in store.rows(f"{sql} LIMIT {MAX_OBJECTS}")
        if name not in STATISTICS
    )
    names = schema.expected_schema(schema.MIGRATIONS, schema.APPLICATION_ID)
    expected = Counter((_kind(text), name, text) for name, text in names)
    for kind, name, _ in expected - found:
        out.error("schema-changed", f"{kind} {name}", "it is missing, or defined otherwise")
    for kind, name, _ in found - expected:
        out.error("schema-changed", f"{kind} {name}", "provkeep makes no such thing")
    if version != schema.VERSION:
        out.error("schema-changed", "file", f"it says schema {version}")
    return expected <= found and len({name for _, name, _ in found}) == found.total()


def _kind(text: str) -> str:
    return "table" if text.startswith("CREATE TABLE") else "index"


class Walk:
    """One pass over the records, with their tree, checkpoints, payloads and index beside them."""

    def __init__(
        self, store: FrozenStore, trust: Trust, out: Findings, progress: Progress | None
    ) -> None:
        self._store, self._trust, self._out, self._progress = store, trust, out, progress
        self._stated, self._frontier = self._head()
        self._tree = Regrown(store, self._stated, out)
        self._signed = _signed_roots(store, trust, out)
        self._next_signed = next(self._signed, None)
        self._last_signed = 0  # size of the largest checkpoint with a good signature
        self._at_pin = False  # is there one at the size of the pin?
        self._payloads = store.rows("SELECT id, seq, data FROM store.payload ORDER BY id")
        self._payload: Row | None = next(self._payloads, None)
        self._next_payload = 1
        self._whole = True  # every record could be read, so that the index can be compared
        self.seen = Seen(payloads=0)

    def run(self) -> Seen:
        """Check everything that follows from the records."""
        seen, tree = self.seen, self._tree
        self._meet_roots()
        rows = self._store.rows(
            "SELECT seq, CASE WHEN length(body) <= ? THEN body END FROM store.record ORDER BY seq",
            (MAX_BODY,),
        )
        for seq, body in rows:
            seen.records += 1
            if seq != tree.size and not self._skip_to(seq):
                self._whole = False
                continue
            tree.add(_leaf(body))
            self._record(seq, body)
            self._meet_roots()
            if self._progress is not None and not seen.records % STEP:
                self._progress(seen.records, max(self._stated, seen.records))
        self._end()
        self._meta()
        self._index()
        if self._progress is not None:
            self._progress(seen.records, seen.records)
        return seen

    def _head(self) -> tuple[int, bytes]:
        rows = list(self._store.rows("SELECT id, size, frontier FROM store.head LIMIT 2"))
        if len(rows) == 1:
            number, size, frontier = rows[0]
            if number == 1 and type(size) is int and size >= 0 and isinstance(frontier, bytes):
                return size, frontier
        self._out.error("head-mismatch", "table head", "there is not one well-formed tree head")
        return (self._store.one("SELECT count(*) FROM store.record") or (0,))[0], b""

    def _skip_to(self, seq: int) -> bool:
        """Pass over numbers that have no record; False when they are too many, or negative."""
        tree = self._tree
        if seq < tree.size:
            self._out.error("record-malformed", f"record {seq}", "numbers begin at 0")
            return False
        last = f"..{seq - 1}" if seq - 1 > tree.size else ""
        sentence = "no record has this number" if not last else "no records have these numbers"
        self._out.error("record-missing", f"record {tree.size}{last}", sentence)
        self._whole = False
        if seq - tree.size > MAX_GAP:
            return False
        while tree.size < seq:
            tree.add(None)
            self._meet_roots()
        return True

    # -- one record ------------------------------------------------------------------------------

    def _record(self, seq: int, body: Any) -> None:
        out, place = self._out, f"record {seq}"
        fields = shapes.parse(body)
        if isinstance(fields, str):
            out.error("not-canonical", place, fields)
            self._whole = False
            return
        problem = shapes.problem(seq, fields)
        if problem is not None:
            out.error("record-malformed", place, problem)
            self._whole = False
            return
        numbers = self._check_payloads(seq, fields) if "p" in fields else range(0)
        if not self._store.derive(seq, fields, numbers):
            out.error("record-malformed", place, "no index can be derived from it")
            self._whole = False
        kind = fields["k"]
        if kind == "init":
            self._origin(fields)
        elif kind == "gap":
            lost = fields.get("events")
            out.info("gap", place, f"the recorder lost {lost if type(lost) is int else '?'} events")
        elif kind not in shapes.KINDS:
            out.warning("unknown-kind", place, "this version does not know its kind")

    def _origin(self, fields: dict[str, Any]) -> None:
        public = self._trust.public
        if public is not None:
            if fields.get("origin") != public.origin:
                sentence = "it names another log than the trusted key"
                self._out.error("origin-mismatch", "record 0", sentence)
            elif fields.get("vkey") != public.vkey():
                self._out.error("origin-mismatch", "record 0", "it names another key")
        self._store_id = fields.get("store")

    def _check_payloads(self, seq: int, fields: dict[str, Any]) -> range:
        """Compare the payloads of a record with the hashes it committed to."""
        out, first, hashes = self._out, fields["p0"], fields["p"]
        if first != self._next_payload:
            sentence = f"its payloads begin at {first}, the log so far at {self._next_payload}"
            out.error("payload-order", f"record {seq}", sentence)
        for number, (wanted, _) in enumerate(hashes, first):
            row = self._find_payload(number)
            if row is None:
                out.error("payload-missing", f"payload {number}", f"record {seq} names it")
                continue
            _, owner, data = row
            if owner != seq:
                sentence = f"it is filed under another record than {seq}, which names it"
                out.error("payload-order", f"payload {number}", sentence)
            if data is None:
                out.error("payload-missing", f"payload {number}", f"record {seq} names it")
            elif not isinstance(data, bytes) or _digest(data) != wanted:
                sentence = f"it is not the one that record {seq} committed to"
                out.error("payload-altered", f"payload {number}", sentence)
        self._next_payload = max(self._next_payload, first + len(hashes))
        return range(first, first + len(hashes))

    def _find_payload(self, number: int) -> Row | None:
        """The payload of this number; those before it belong to no record."""
        while self._payload is not None and self._payload[0] < number:
            self._out.error("payload-orphan", f"payload {self._payload[0]}", "no record names it")
            self._take_payload()
        if self._payload is None or self._payload[0] != number:
            return None
        return self._take_payload()

    def _take_payload(self) -> Row | None:
        row, self._payload = self._payload, next(self._payloads, None)
        self.seen.payloads += 1
        return row

    # -- signed roots ----------------------------------------------------------------------------

    def _meet_roots(self) -> None:
        """Hold the tree against what was signed or pinned at its present size."""
        size, pin = self._tree.size, self._trust.pin
        while self._next_signed is not None and self._next_signed[0] <= size:
            at, root, trusted = self._next_signed
            self._next_signed = next(self._signed, None)
            if at < size:  # only a negative size: the tree grows one by one
                continue
            if trusted:
                self._last_signed = at
                self._at_pin |= pin is not None and pin.size == at
            if self._tree.holds(root, f"checkpoint {at}", "checkpoint-root") and trusted:
                self.seen.signed_size = at
        if pin is not None and pin.size == size:
            self.seen.pinned = self._tree.holds(pin.root, "the pin", "pin-mismatch")

    def _end(self) -> None:
        """Everything that speaks of the log as a whole."""
        out, tree, seen, pin = self._out, self._tree, self.seen, self._trust.pin
        self._find_payload(2**63)
        size = seen.size = tree.size
        if not size:
            out.error("empty", "table record", "there is no record; every log has record 0")
        if size != self._stated:
            sentence = f"the tree head counts {self._stated} records, there are {size}"
            out.error("head-mismatch", "table head", sentence)
        tree.finish(self._frontier)
        seen.root = tree.root()
        while self._next_signed is not None:
            at, _, trusted = self._next_signed
            self._last_signed = at if trusted else self._last_signed
            sentence = f"it signs {at} records, the log has {size}: the log was cut or replaced"
            out.error("checkpoint-ahead", f"checkpoint {at}", sentence)
            self._next_signed = next(self._signed, None)
        if pin is not None and pin.size > size:
            sentence = f"it remembers {pin.size} records, the log has {size}: cut or rolled back"
            out.error("pin-ahead", "pin", sentence)
        if self._trust.public is None:
            return
        if pin is not None and pin.size <= size and not self._at_pin:
            sentence = f"the checkpoint of {pin.size} records, which the pin remembers, is gone"
            out.error("checkpoint-missing", "table checkpoint", sentence)
        if not self._last_signed:
            out.error("checkpoint-missing", "table checkpoint", "none is left that the log signed")
        if self._last_signed < size:
            place = f"records {self._last_signed}..{size - 1}"
            sentence = "they are not signed yet; whoever can write the file can change them"
            out.warning("unsigned-tail", place, sentence)

    # -- what follows from the records -----------------------------------------------------------

    _store_id: Any = None

    def _meta(self) -> None:
        rows = list(self._store.rows("SELECT key, value FROM store.meta LIMIT 3"))
        if rows != [("store_id", self._store_id)]:
            sentence = "it does not hold exactly the store id of record 0"
            self._out.error("meta-mismatch", "table meta", sentence)

    def _index(self) -> None:
        if not self._whole:
            sentence = "some records could not be read; mend those first"
            self._out.info("index-unchecked", "index", sentence)
            return
        for table in schema.INDEX_TABLES:
            for key, what in self._store.differences(table):
                self._out.error("index-row", f"table {table}, {_row(key)}", what)
        for key, _ in self._store.source_differences():
            sentence = "its source is not the one that its record says"
            self._out.error("index-row", f"table payload, {_row(key)}", sentence)


def _leaf(body: Any) -> bytes | None:
    """The leaf hash of a stored body, whatever it is stored as; None where nothing is."""
    if isinstance(body, str):
        body = body.encode("utf-8", "surrogateescape")
    return leaf_hash(body) if isinstance(body, bytes) else None


def _digest(data: bytes) -> str:
    """SHA-256 as records spell it."""
    return urlsafe_b64encode(sha256(data).digest())[:43].decode()


def _row(key: Row) -> str:
    parts = [part.hex() if isinstance(part, bytes) else ascii(part) for part in key]
    return f"row {', '.join(part[:40] for part in parts)}"


def _signed_roots(
    store: FrozenStore, trust: Trust, out: Findings
) -> Iterator[tuple[int, bytes, bool]]:
    """Size and root of every checkpoint that is what it should be, and whether it was signed."""
    for size, note in store.rows("SELECT size, note FROM store.checkpoint ORDER BY size"):
        place = f"checkpoint {size}"
        if not isinstance(note, str):
            out.error("checkpoint-malformed", place, "it is not text")
            continue
        try:
            stated = parse_checkpoint(note)
        except CheckpointError as error:
            out.error("checkpoint-malformed", place, error.problem)
            continue
        if stated.size != size:
            out.error("checkpoint-malformed", place, f"it states another size, {stated.size}")
            continue
        public = trust.public
        if public is not None:
            try:
                verify_checkpoint(note, public)
            except CheckpointError as error:
                names = {(s.name, s.key_id) for s in stated.signatures}
                ours = stated.origin == public.origin and (public.origin, public.key_id) in names
                code = "checkpoint-signature" if ours else "checkpoint-unknown-signer"
                out.error(code, place, error.problem)
                continue
        yield size, stated.root, public is not None
