"""The index rows of new records, when everything before a pin is taken as it was.

Numbers of traces and sources are taken from the index; what they stand for, and every row that
follows from a new record, is derived again. Of a trace that began before the pin, its earlier
records are read as they are stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import orjson

from provkeep.model import records as r
from provkeep.reading.findings import Findings
from provkeep.reading.frozen import KEY_COLUMNS, FrozenStore, Row
from provkeep.reading.molds import Fit
from provkeep.reading.reindex import row_name
from provkeep.store import schema
from provkeep.store.index import gather

_MISSING: Final = "is missing, or differs from what the records say"
_BY_RECORD: Final = {  # tables whose rows say which record made them, and their keys
    "access": "seq",
    "access_trace": "tid, seq",
    "access_source": "source, seq",
    "erasure": "seq",
    "gone": "first, seq",
    "hold": "what, id",
    "grants": "id",
    "keychange": "seq",
}


class NewIndex:
    """See ``reindex.Index``.

    Args:
        start: number of the first new record.
    """

    def __init__(self, store: FrozenStore, out: Findings, start: int) -> None:
        self._store, self._out, self._start = store, out, start

    def add(self, seq: int, fields: dict[str, Any], numbers: range, sources: list[Row]) -> bool:
        """See ``Index``."""
        store = self._store
        try:
            if fields["k"] == "trace":
                self._earlier(bytes.fromhex(fields["t"]))
            self._prepare(fields)
        except store.underivable:
            return False
        store.see(sources)
        return store.derive(seq, fields, numbers)

    def follow(self, seq: int, fits: Sequence[Fit], sources: list[Row]) -> bool:
        """See ``Index``. Of what came before a pin little is known, so each is looked at."""
        return False

    def _earlier(self, tid: bytes) -> None:
        """Take over the number of a trace, and derive again what its pinned records say."""
        store, start = self._store, self._start
        if store.one("SELECT 1 FROM main.trace WHERE tid=?", (tid,)):
            return
        row = store.one("SELECT * FROM store.trace WHERE tid=?", (tid,))
        if row is None or row[1] != tid:
            return
        blank = (*row[:3], None, None, *row[5:10], 0, 0, None)
        marks = ",".join("?" * len(blank))
        store.write(f"INSERT OR IGNORE INTO main.trace VALUES({marks})", blank)
        sql = "SELECT seq FROM store.trec WHERE trace=? AND seq<? ORDER BY seq"
        for (seq,) in list(store.rows(sql, (row[0], start))):
            for body in store.bodies(seq, seq + 1):
                fields = orjson.loads(body)
                self._prepare(fields)
                first = fields.get("p0", 0)
                store.derive(seq, fields, range(first, first + len(fields.get("p", ()))))

    def _prepare(self, fields: dict[str, Any]) -> None:
        """Copy what a record refers to, as far as pinned records made it."""
        store, start, tags = self._store, self._start, []
        if fields["k"] == "trace":
            found = gather(fields)
            tags = [*found.names, *(r.unb64(tag) for _, tag, _ in found.docs if tag is not None)]
            for payload, _, fingerprint in found.docs:
                if fingerprint is not None:
                    store.write(
                        "INSERT OR IGNORE INTO main.doc SELECT d.tag, d.payload FROM store.doc d"
                        " JOIN store.payload p ON p.id = d.payload WHERE d.tag=? AND p.seq<?",
                        (r.unb64(fingerprint), start),
                    )
                else:
                    found.final.append(payload)
            for payload in found.final:
                store.write(
                    "INSERT OR IGNORE INTO main.payload(id, seq, source)"
                    " SELECT id, seq, source FROM store.payload WHERE id=? AND seq<?",
                    (payload, start),
                )
        elif fields["k"] == "access":
            tags = [r.unb64(tag) for tag, _ in fields.get("src", ())]
        elif fields["k"] == "revoke":
            store.write(
                "INSERT OR IGNORE INTO main.grants SELECT id, seq, reader, NULL FROM store.grants"
                " WHERE id=? AND seq<?",
                (r.unb64(fields["grant"]), start),
            )
        for tag in tags:
            store.write(
                "INSERT OR IGNORE INTO main.source SELECT s.id, s.tag, p.id FROM store.source s"
                " LEFT JOIN store.payload p ON p.id = s.payload AND p.seq<? WHERE s.tag=?",
                (start, tag),
            )

    def finish(self) -> None:
        """See ``Index``."""
        store, out, start = self._store, self._out, self._start
        for table in schema.INDEX_TABLES:
            for row in store.lacking(table):
                place = f"table {table}, {row_name(row[: KEY_COLUMNS[table]])}"
                out.error("index-row", place, _MISSING)
        ours = "SELECT id, source FROM main.payload WHERE source IS NOT NULL AND seq>=?"
        theirs = "SELECT id, source FROM main.seen"
        sources = f"SELECT id FROM ({ours} EXCEPT {theirs}) UNION SELECT id FROM "  # noqa: S608  # our own
        for row in store.rows(f"{sources} ({theirs} EXCEPT {ours}) LIMIT 1000", (start, start)):
            sentence = "its source is not the one that its record says"
            out.error("index-row", f"table payload, {row_name(row)}", sentence)
        of_records = "SELECT {0} FROM store.{1} WHERE seq>={2} EXCEPT SELECT {0} FROM main.{1}"
        more = {
            "trec": "SELECT t.trace, t.seq FROM main.trace m JOIN store.trec t ON t.trace = m.id"
            " EXCEPT SELECT trace, seq FROM main.trec",
            **{table: of_records.format(key, table, start) for table, key in _BY_RECORD.items()},
            "trace": "SELECT id FROM store.trace WHERE id > (SELECT max(id) FROM main.trace)",
        }
        for table, sql in more.items():
            for row in store.rows(f"{sql} LIMIT 1000"):
                sentence = "follows from no record"
                out.error("index-row", f"table {table}, {row_name(row)}", sentence)
