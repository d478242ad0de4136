"""The checks that make up a verification, over one frozen state of a store.

Nothing is taken from the store on trust: what it must say is derived from its records, and what
its records must be from roots signed by a key that was known beforehand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from provkeep.model.canonical import MAX_BODY
from provkeep.model.records import LOG_KEY
from provkeep.reading import shapes
from provkeep.reading.findings import Findings
from provkeep.reading.frozen import FrozenStore, Row
from provkeep.reading.keychecks import KeyUse
from provkeep.reading.molds import Molds, key_numbers
from provkeep.reading.payloads import Payloads
from provkeep.reading.reindex import Index
from provkeep.reading.signed import Signed, Trust
from provkeep.reading.statements import Statements
from provkeep.reading.tree import Regrown
from provkeep.store import schema
from provkeep.tlog.merkle import leaf_hash, leaf_hashes

MAX_GAP: Final = 100_000  # missing numbers in a row that are counted one by one
MAX_OBJECTS: Final = 1_000  # rows of sqlite_schema that are looked at
STEP: Final = 256  # records between two calls of ``progress``, and looked at together at most
STATISTICS: Final = ("sqlite_stat1", "sqlite_stat4")  # ANALYZE makes them; they hold no facts

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
        self._payloads = Payloads(store, out, seen, start)
        self._molds = Molds()
        self._stride = 1  # so many records are looked at together; more while that goes well
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
        seen, signed = self.seen, self._signed
        signed.meet()
        rows = self._store.ahead(
            "SELECT seq, CASE WHEN length(body) <= ? THEN body END FROM store.record"
            " WHERE seq >= ? ORDER BY seq",
            (MAX_BODY, self._start or -(2**63)),
        )
        while some := rows.look(min(self._stride, signed.room())):
            done = self._together(some)
            self._stride = min(STEP, 2 * done or 1)
            if not done:
                self._alone(*some[0])
                done = 1
            rows.take(done)
            seen.records += done
            if self._progress is not None and seen.records % STEP < done:
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

    # -- many records ----------------------------------------------------------------------------

    def _together(self, rows: list[Row]) -> int:
        """How many of these records were shown to be right at once; the next one is not seen yet.

        Nothing is ever said here: whatever is not plainly right is looked at by itself, and so is
        what came after a pin.
        """
        size, seen = self._tree.size, self.seen
        numbers, bodies = zip(*rows, strict=True)
        if self._start or numbers != tuple(range(size, size + len(rows))):
            return 0
        fits = self._molds.fit(bodies)
        while fits:
            sources = self._payloads.follow(size, fits)
            if sources is not None and self._index.follow(size, fits, sources):
                break
            del fits[len(fits) // 2 :]
        if not fits:
            return 0
        done = len(fits)
        self._payloads.take(fits)
        self._tree.extend(leaf_hashes(bodies[:done]))
        seen.use.meet_keys(size + done - 1, key_numbers(fits))
        if self._signed.is_due():
            self._signed.meet()
        return done

    # -- one record ------------------------------------------------------------------------------

    def _alone(self, seq: int, body: Any) -> None:
        if seq != self._tree.size and not self._skip_to(seq):
            self._whole = False
            return
        fields = shapes.parse(body)
        if isinstance(fields, dict) and fields.get("k") == LOG_KEY:
            self._signed.rotated(seq, fields)
        self._tree.add(_leaf(body))
        if self._record(seq, fields) and isinstance(fields, dict):
            self._molds.learn(body, fields)
        if self._signed.is_due():
            self._signed.meet()

    def _record(self, seq: int, fields: dict[str, Any] | str) -> bool:
        """Check one record; is it one of a trace, of a right shape, and makes index rows?"""
        if isinstance(fields, str):
            self._out.error("not-canonical", f"record {seq}", fields)
            self._whole = False
            return False
        problem = shapes.problem(seq, fields)
        if problem is not None:
            self._out.error("record-malformed", f"record {seq}", problem)
            self._whole = False
            return False
        numbers = range(0)
        sources: list[Row] = []
        if "p" in fields:
            numbers, sources = self._payloads.check(seq, fields["p0"], fields["p"])
        derived = self._index.add(seq, fields, numbers, sources)
        if not derived:
            self._out.error("record-malformed", f"record {seq}", "no index can be derived from it")
            self._whole = False
        self.seen.use.meet(seq, fields)
        if fields["k"] != "trace":
            self._statements.meet(seq, fields)
            self._remark(seq, fields)
        return derived and fields["k"] == "trace"

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

    # -- the end ---------------------------------------------------------------------------------

    def _end(self, stated: int, frontier: bytes) -> None:
        """Everything that speaks of the log as a whole."""
        out, tree, seen = self._out, self._tree, self.seen
        self._payloads.finish()
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
