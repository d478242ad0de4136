"""The index: what crosses traces, derived from the records and from nothing else.

``apply`` is the only writer of the index tables. The log calls it as a record is appended;
``verify`` calls it again on an empty database and compares. Integer ids follow the order in which
traces and sources first appear in the log, so a rebuilt index is equal row for row.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from provkeep.model import records as r

MAX_ASKED: Final = 500  # payloads asked for in one query

Row = tuple[Any, ...]


def apply(conn: sqlite3.Connection, seq: int, body: dict[str, Any]) -> None:
    """Derive the index rows of one record and write them.

    Raises:
        KeyError, ValueError, TypeError, IndexError: the body is not one that provkeep writes.
    """
    kind = body["k"]
    if kind == "trace":
        _trace(conn, seq, body)
    elif kind == "access":
        _access(conn, seq, body)
    elif kind == "erase":
        _erase(conn, seq, body)
    elif kind == "hold":
        _hold(conn, seq, body)
    elif kind in (r.LOG_KEY, r.RECIPIENTS):
        conn.execute("INSERT INTO keychange VALUES(?,?)", (seq, kind))
    elif kind == "grant":
        values = (r.unb64(body["id"]), seq, r.unb64(body["to"]))
        conn.execute("INSERT OR IGNORE INTO grants(id,seq,reader) VALUES(?,?,?)", values)
    elif kind == "revoke":
        grant = r.unb64(body["grant"])
        conn.execute("UPDATE grants SET revoked=? WHERE id=? AND revoked IS NULL", (seq, grant))


@dataclass(slots=True)
class Gathered:
    """What the entries of one record add to the index, before ids are given."""

    tid: bytes
    t0_ns: int
    p0: int
    head: dict[str, Any]
    runs: int = 0
    errors: int = 0
    kind: str | None = None
    name: str | None = None
    status: str | None = None
    end_us: int | None = None
    answer: int | None = None  # -1: it ended without one
    docs: list[tuple[int, str | None, str | None]] = field(default_factory=list)
    links: list[list[Any]] = field(default_factory=list)
    names: dict[bytes, int] = field(default_factory=dict)
    final: list[int] = field(default_factory=list)

    def row(self) -> Row:
        """The columns of ``trace`` behind its id, as its first record makes them."""
        times = self.t0_ns // 1000, self.end_us
        said = self.status, self.kind, self.name
        return (self.tid, *times, *said, *tags(self.head), self.runs, self.errors, self.answer)

    @property
    def reached(self) -> set[int]:
        """Payloads of the documents that reached the end of the trace."""
        p0 = self.p0
        return {p if p >= 0 else p0 - p - 1 for p in self.final}

    @property
    def crosses(self) -> bool:
        """Is there anything in it for other tables than ``trace`` and ``trec``?"""
        return bool(self.docs or self.links or self.names or self.final)


def tags(head: dict[str, Any]) -> tuple[bytes | None, ...]:
    """The tags of session, actor and subject that a trace's first record names.

    Raises:
        ValueError, TypeError: one is not base64.
    """
    return tuple([r.unb64(head[k]) if k in head else None for k in ("session", "actor", "subject")])


def gather(body: dict[str, Any]) -> Gathered:
    """Read the entries of a trace's record once.

    Raises:
        KeyError, ValueError, TypeError, IndexError: the body is not one that provkeep writes.
    """
    p0, t0_ns = body.get("p0", 0), int(body["t0"])
    found = Gathered(bytes.fromhex(body["t"]), t0_ns, p0, body.get("h") or {})
    for entry in body["e"]:
        tag = entry[0]
        if tag == r.ARTIFACT:
            more = entry[7]
            if more:
                if "g" in more:
                    found.docs.append((more["g"], None, None))
                elif "src" in more:
                    found.docs.append((p0 + entry[6], more["src"], more["fp"]))
        elif tag == r.RUN:
            found.runs += 1
            if entry[1] == 0:
                found.kind, found.name = entry[2], entry[3]
        elif tag == r.END:
            if entry[3] == "error":
                found.errors += entry[4].get("o", 0)
            if entry[1] == 0:
                found.status, found.end_us = entry[3], (t0_ns + entry[2]) // 1000
        elif tag == r.LINK:
            found.links.append(entry)
        elif tag == r.SOURCE:
            found.names[r.unb64(entry[1])] = p0 + entry[2]
        elif tag == r.FINAL:
            found.answer = entry[2]
            found.final += entry[3]
    return found


def _trace(conn: sqlite3.Connection, seq: int, body: dict[str, Any]) -> None:
    found = gather(body)
    row = conn.execute("SELECT id FROM trace WHERE tid=?", (found.tid,)).fetchone()
    if row is None:
        trace = conn.execute(
            "INSERT INTO trace(tid,t0_us,end_us,status,kind,name,session,actor,subject,runs,errors,"
            "answer) VALUES(?,?,?,?,?,?,?,?,?,?,?,?)",
            found.row(),
        ).lastrowid
    else:
        trace = row[0]
        conn.execute(
            "UPDATE trace SET runs=runs+?, errors=errors+?, end_us=coalesce(?,end_us),"
            " status=coalesce(?,status), answer=coalesce(?,answer) WHERE id=?",
            (found.runs, found.errors, found.end_us, found.status, found.answer, trace),
        )
    conn.execute("INSERT INTO trec VALUES(?,?)", (trace, seq))
    if found.crosses:
        cross(conn, [(found, trace)])


def cross(conn: sqlite3.Connection, records: Sequence[tuple[Gathered, Any]]) -> None:
    """Write what records of traces, with the ids of those, add to the tables that cross traces."""
    asked = {d[0] for found, _ in records for d in found.docs if d[1] is None}
    of = _sources_of(conn, asked.union(*[found.reached for found, _ in records]))
    xrefs: list[Row] = []
    for found, trace in records:
        xrefs += [(source, trace, reach) for source, reach in _crossed(conn, found, of).items()]
    conn.executemany(
        "INSERT INTO xref VALUES(?,?,?) ON CONFLICT DO UPDATE SET reach=max(reach,excluded.reach)",
        xrefs,
    )
    links = [(found.links, trace) for found, trace in records if found.links]
    conn.executemany(
        "INSERT OR IGNORE INTO link VALUES(?,?,?,?)",
        [(r.unb64(t), trace, role, a) for each, trace in links for _, t, a, role in each],
    )


def _crossed(
    conn: sqlite3.Connection, found: Gathered, of: dict[int, int | None]
) -> dict[int, int]:
    """The sources in a record, 1 for those that reached its end; ``of`` are those of payloads."""
    for source_tag, payload in found.names.items():
        _source(conn, source_tag, payload)
    rows: dict[int, int] = {}
    for payload, source_name, fingerprint in found.docs:
        if source_name is not None and fingerprint is not None:
            source: int | None = _source(conn, r.unb64(source_name), None)
            conn.execute("UPDATE payload SET source=? WHERE id=?", (source, payload))
            conn.execute("INSERT OR IGNORE INTO doc VALUES(?,?)", (r.unb64(fingerprint), payload))
        else:
            source = of.get(payload)
        of[payload] = source
        if source is not None:
            rows[source] = 0
    for payload in found.reached:
        source = of.get(payload)
        if source is not None:
            rows[source] = 1
    return rows


def _sources_of(conn: sqlite3.Connection, payloads: set[int]) -> dict[int, int | None]:
    """The sources of the documents stored as these payloads."""
    of: dict[int, int | None] = {}
    wanted = sorted(payloads)
    for at in range(0, len(wanted), MAX_ASKED):
        some = wanted[at : at + MAX_ASKED]
        marks = ",".join("?" * len(some))
        of.update(
            conn.execute(f"SELECT id, source FROM payload WHERE id IN ({marks})", some)  # noqa: S608  # marks only
        )
    return of


def _source(conn: sqlite3.Connection, tag: bytes, payload: int | None) -> int:
    row = conn.execute("SELECT id, payload FROM source WHERE tag=?", (tag,)).fetchone()
    if row is None:
        cursor = conn.execute("INSERT INTO source(tag,payload) VALUES(?,?)", (tag, payload))
        return int(cursor.lastrowid or 0)
    if row[1] is None and payload is not None:
        conn.execute("UPDATE source SET payload=? WHERE id=?", (payload, row[0]))
    return int(row[0])


def _access(conn: sqlite3.Connection, seq: int, body: dict[str, Any]) -> None:
    tid = bytes.fromhex(body["t"]) if body.get("t") else None
    conn.execute(
        "INSERT INTO access VALUES(?,?,?,?,?)",
        (seq, body["at"], r.unb64(body["by"]), tid, body["what"]),
    )
    traces = {bytes.fromhex(place.partition(".")[0]) for place in body.get("a", ())}
    traces |= set() if tid is None else {tid}
    conn.executemany("INSERT INTO access_trace VALUES(?,?)", [(t, seq) for t in traces])
    rows: dict[int, int] = {}
    for tag, reach in body.get("src", ()):
        source = _source(conn, r.unb64(tag), None)
        rows[source] = max(rows.get(source, 0), reach)
    conn.executemany(
        "INSERT INTO access_source VALUES(?,?,?)",
        [(s, seq, reach) for s, reach in rows.items()],
    )


def _erase(conn: sqlite3.Connection, seq: int, body: dict[str, Any]) -> None:
    """Which keys are gone; documents whose keys are gone are stored anew when they come again."""
    conn.execute("INSERT INTO erasure VALUES(?,?,?)", (seq, body["at"], body["what"]))
    gone = body["gone"]
    conn.executemany(
        "INSERT INTO gone(first,last,seq) VALUES(?,?,?)",
        [(first, last, seq) for first, last in zip(gone[::2], gone[1::2], strict=True)],
    )
    classes = body.get("c", range(len(r.COMPARTMENTS)))
    for tag in body.get("src", ()):
        source = _source(conn, r.unb64(tag), None)
        if r.CLASS_CODE["document"] in classes:
            conn.execute(
                "DELETE FROM doc WHERE payload IN (SELECT d.payload FROM doc d"
                " JOIN payload p ON p.id = d.payload WHERE p.source = ?)",
                (source,),
            )
        if r.CLASS_CODE["meta"] in classes:
            conn.execute("UPDATE source SET payload = NULL WHERE id = ?", (source,))


def _hold(conn: sqlite3.Connection, seq: int, body: dict[str, Any]) -> None:
    what, key = body["what"], r.unb64(body["id"])
    conn.execute("DELETE FROM hold WHERE what=? AND id=?", (what, key))
    if body["do"] == "add":
        conn.execute("INSERT INTO hold VALUES(?,?,?)", (what, key, seq))
