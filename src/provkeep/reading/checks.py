"""The checks that make up a verification, over one frozen state of a store.

Nothing is taken from the store on trust: what it must say is derived from its records, and what
its records must be from roots signed by a key that was known beforehand.
"""

from __future__ import annotations

from binascii import b2a_base64
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

from provkeep.model.canonical import MAX_BODY
from provkeep.model.records import LOG_KEY
from provkeep.reading import shapes
from provkeep.reading.findings import Findings
from provkeep.reading.frozen import FrozenStore, Row
from provkeep.reading.keychecks import KeyUse
from provkeep.reading.reindex import Index
from provkeep.reading.signed import Signed, Trust
from provkeep.reading.statements import Statements
from provkeep.reading.tree import Regrown
from provkeep.store import schema
from provkeep.tlog.merkle import leaf_hash

MAX_GAP: Final = 100_000  # missing numbers in a row that are counted one by one
MAX_OBJECTS: Final = 1_000  # rows of sqlite_schema that are looked at
STEP: Final = 256  # records between two calls of ``progress``
STATISTICS: Final = ("sqlite_stat1", "sqlite_stat4")  # ANALYZE makes them; they hold no facts

_URL_ALPHABET: Final = bytes.maketrans(b"+/", b"-_")

Progress = Callable[[int, int], None]


@dataclass(slots=True)
class Seen:
    """What was counted on the way."""

    records: int = 0
    payloads: int = 0
    size: int = 0
    root: bytes = b""
    signed_size: int = 0
    pinned: bool = False
    keys: int = 0
    use: KeyUse = field(default_factory=KeyUse)  # data keys that records name
    anchors: list[int] = field(default_factory=list)  # records that hold a proof of an anchor


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
    """One pass over the records, with their tree, checkpoints, payloads and index beside them.

    Args:
        seen: what is counted on the way, also when this does not come to its end.
        start: the records before this one are those of the pin, as ``tree`` was found to be.
    """

    def __init__(
        self,
        store: FrozenStore,
        trust: Trust,
        out: Findings,
        progress: Progress | None,
        seen: Seen,
        *,
        tree: Regrown,
        index: Index,
        start: int = 0,
    ) -> None:
        self._store, self._trust, self._out, self._progress = store, trust, out, progress
        self._tree, self._index, self._start = tree, index, start
        self._signed = Signed(store, trust, tree, out, start)
        self._payloads: Iterator[Row] | None = None
        self._payload: Row | None = None
        self._next_payload = 1
        if not start:
            self._open_payloads(-(2**63))
        self._whole = True  # every record could be read, so that the index can be compared
        self._store_id: Any = None
        self._statements = Statements(out)
        if start:  # who the admin is, stands before what is looked at
            for body in store.bodies(0, 1):
                first = shapes.parse(body)
                if type(first) is dict and first.get("k") == "init":
                    self._statements.meet(0, first)
        self.seen = seen

    def run(self, stated: int, frontier: bytes) -> Seen:
        """Check everything that follows from the records, and the stored tree head."""
        seen, tree, signed = self.seen, self._tree, self._signed
        signed.meet()
        rows = self._store.rows(
            "SELECT seq, CASE WHEN length(body) <= ? THEN body END FROM store.record"
            " WHERE seq >= ? ORDER BY seq",
            (MAX_BODY, self._start or -(2**63)),
        )
        for seq, body in rows:
            seen.records += 1
            if seq != tree.size and not self._skip_to(seq):
                self._whole = False
                continue
            fields = shapes.parse(body)
            if type(fields) is dict and fields.get("k") == LOG_KEY:
                signed.rotated(seq, fields)
            tree.add(_leaf(body))
            self._record(seq, fields)
            if signed.is_due():
                signed.meet()
            if self._progress is not None and not seen.records % STEP:
                self._progress(seen.records, max(stated - self._start, seen.records))
        self._end(stated, frontier)
        if not self._start:
            self._meta()
        if self._whole:
            self._index.finish()
        else:
            sentence = "some records could not be read; mend those first"
            self._out.info("index-unchecked", "index", sentence)
        if self._progress is not None:
            self._progress(seen.records, seen.records)
        return seen

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
            self._signed.meet()
        return True

    # -- one record ------------------------------------------------------------------------------

    def _record(self, seq: int, fields: dict[str, Any] | str) -> None:
        if isinstance(fields, str):
            self._out.error("not-canonical", f"record {seq}", fields)
            self._whole = False
            return
        problem = shapes.problem(seq, fields)
        if problem is not None:
            self._out.error("record-malformed", f"record {seq}", problem)
            self._whole = False
            return
        numbers = range(0)
        sources: list[Row] = []
        if "p" in fields:
            numbers, sources = self._check_payloads(seq, fields["p0"], fields["p"])
        if not self._index.add(seq, fields, numbers, sources):
            self._out.error("record-malformed", f"record {seq}", "no index can be derived from it")
            self._whole = False
        self.seen.use.meet(seq, fields)
        if fields["k"] != "trace":
            self._statements.meet(seq, fields)
            self._remark(seq, fields)

    def _remark(self, seq: int, fields: dict[str, Any]) -> None:
        out, place, kind = self._out, f"record {seq}", fields["k"]
        if kind == "init":
            self._origin(fields)
        elif kind == "gap":
            lost = fields.get("events")
            out.info("gap", place, f"the recorder lost {lost if type(lost) is int else '?'} events")
        elif kind == "anchor":
            self.seen.anchors.append(seq)
        elif kind not in shapes.KINDS:
            out.warning("unknown-kind", place, "this version does not know its kind")

    def _origin(self, fields: dict[str, Any]) -> None:
        chain = self._signed.chain
        if chain is not None:
            if fields.get("origin") != chain.keys[0].origin:
                sentence = "it names another log than the trusted key"
                self._out.error("origin-mismatch", "record 0", sentence)
            elif fields.get("vkey") != chain.keys[0].vkey():
                self._out.error("origin-mismatch", "record 0", "it names another key")
        self._store_id = fields.get("store")

    # -- payloads --------------------------------------------------------------------------------

    def _open_payloads(self, first: int) -> None:
        sql = "SELECT id, seq, source, data FROM store.payload WHERE id >= ? ORDER BY id"
        self._payloads = self._store.rows(sql, (first,))
        self._payload = next(self._payloads, None)

    def _check_payloads(
        self, seq: int, first: int, hashes: list[list[Any]]
    ) -> tuple[range, list[Row]]:
        """Compare the payloads of a record with the hashes it committed to."""
        numbers = range(first, first + len(hashes))
        if self._payloads is None:
            self._begin_payloads(seq, first)
        if first != self._next_payload:
            sentence = f"its payloads begin at {first}, the log so far at {self._next_payload}"
            self._out.error("payload-order", f"record {seq}", sentence)
        found: list[bytes | None] = []
        sources: list[Row] = []
        for number in numbers:
            row = self._payload
            if row is None or row[0] != number:
                row = self._find_payload(number)
            else:
                self._take_payload()
            found.append(self._digest(seq, number, row))
            if row is not None and row[2] is not None:
                sources.append((number, row[2]))
        if None in found or _spelled(found) != [wanted for wanted, _ in hashes]:
            for number, digest, (wanted, _) in zip(numbers, found, hashes, strict=True):
                if digest is not None and _spelled([digest]) != [wanted]:
                    sentence = f"it is not the one that record {seq} committed to"
                    self._out.error("payload-altered", f"payload {number}", sentence)
        self._next_payload = max(self._next_payload, numbers.stop)
        return numbers, sources

    def _begin_payloads(self, seq: int, first: int) -> None:
        """The payloads of new records begin where those of the pinned ones end."""
        self._next_payload = first
        if first > 1:
            sql = "SELECT seq FROM store.payload WHERE id=?"
            (owner,) = self._store.one(sql, (first - 1,)) or (None,)
            if type(owner) is not int or not 0 <= owner < self._start:
                sentence = f"its payloads begin at {first}, and none of the pinned ones end there"
                self._out.error("payload-order", f"record {seq}", sentence)
        self._open_payloads(first)

    def _digest(self, seq: int, number: int, row: Row | None) -> bytes | None:
        """The hash of a payload; None, and a finding, when there are no such bytes."""
        out, place = self._out, f"payload {number}"
        if row is None or row[3] is None:
            out.error("payload-missing", place, f"record {seq} names it")
            return None
        if row[1] != seq:
            sentence = f"it is filed under another record than {seq}, which names it"
            out.error("payload-order", place, sentence)
        if not isinstance(row[3], bytes):
            out.error("payload-altered", place, f"record {seq} committed to bytes")
            return None
        return sha256(row[3]).digest()

    def _find_payload(self, number: int) -> Row | None:
        """The payload of this number; those before it belong to no record."""
        while self._payload is not None and self._payload[0] < number:
            self._out.error("payload-orphan", f"payload {self._payload[0]}", "no record names it")
            self._take_payload()
        if self._payload is None or self._payload[0] != number:
            return None
        return self._take_payload()

    def _take_payload(self) -> Row | None:
        assert self._payloads is not None  # noqa: S101  # opened before the first is looked for
        row, self._payload = self._payload, next(self._payloads, None)
        self.seen.payloads += 1
        return row

    # -- the end ---------------------------------------------------------------------------------

    def _end(self, stated: int, frontier: bytes) -> None:
        """Everything that speaks of the log as a whole."""
        out, tree, seen = self._out, self._tree, self.seen
        if self._payloads is not None:
            self._find_payload(2**63)
        else:
            row = self._store.one("SELECT id, seq FROM store.payload ORDER BY id DESC LIMIT 1")
            if row is not None and (type(row[1]) is not int or row[1] >= self._start):
                out.error("payload-orphan", f"payload {row[0]}", "no record names it")
        size = seen.size = tree.size
        if not size:
            out.error("empty", "table record", "there is no record; every log has record 0")
        if size != stated:
            sentence = f"the tree head counts {stated} records, there are {size}"
            out.error("head-mismatch", "table head", sentence)
        tree.finish(frontier)
        seen.root = tree.root()
        self._signed.end()
        seen.signed_size, seen.pinned = self._signed.size, self._signed.pinned
        seen.keys = len(self._signed.chain.keys) if self._signed.chain is not None else 0

    def _meta(self) -> None:
        rows = list(self._store.rows("SELECT key, value FROM store.meta LIMIT 3"))
        if rows != [("store_id", self._store_id)]:
            sentence = "it does not hold exactly the store id of record 0"
            self._out.error("meta-mismatch", "table meta", sentence)


def stored_head(store: FrozenStore, out: Findings) -> tuple[int, bytes]:
    """Size and right edge of the tree as the store has them; how many records, when it has not."""
    rows = list(store.rows("SELECT id, size, frontier FROM store.head LIMIT 2"))
    if len(rows) == 1:
        number, size, frontier = rows[0]
        if number == 1 and type(size) is int and size >= 0 and isinstance(frontier, bytes):
            return size, frontier
    out.error("head-mismatch", "table head", "there is not one well-formed tree head")
    return (store.one("SELECT count(*) FROM store.record") or (0,))[0], b""


def _leaf(body: Any) -> bytes | None:
    """The leaf hash of a stored body, whatever it is stored as; None where nothing is."""
    if isinstance(body, str):
        body = body.encode("utf-8", "surrogateescape")
    return leaf_hash(body) if isinstance(body, bytes) else None


def _spelled(digests: list[bytes | None]) -> list[str]:
    """SHA-256 hashes as records spell them, all at once: each in 44 characters, the last an A."""
    joined = b"\0".join(digest or bytes(32) for digest in digests) + b"\0"
    text = b2a_base64(joined, newline=False).translate(_URL_ALPHABET).decode()
    return [text[at : at + 43] for at in range(0, 44 * len(digests), 44)]
