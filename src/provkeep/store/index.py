"""The index: what crosses traces, derived from the records and from nothing else.

``apply`` is the only writer of the index tables. The log calls it as a record is appended;
``verify`` calls it again on an empty database and compares. Integer ids follow the order in which
traces and sources first appear in the log, so a rebuilt index is equal row for row.
"""

from __future__ import annotations

import sqlite3
from typing import Any, Final

from provkeep.model import records as r

MAX_ASKED: Final = 500  # payloads asked for in one query


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


def _trace(conn: sqlite3.Connection, seq: int, body: dict[str, Any]) -> None:
    tid, p0, t0_ns = bytes.fromhex(body["t"]), body.get("p0", 0), int(body["t0"])
    runs = errors = 0
    name = kind = status = end_us = None
    found: int | None
    docs: list[tuple[int, str | None, str | None]] = []
    links: list[list[Any]] = []
    names: dict[bytes, int] = {}
    final: list[int] = []
    for entry in body["e"]:
        tag = entry[0]
        if tag == r.RUN:
            runs += 1
            if entry[1] == 0:
                kind, name = entry[2], entry[3]
        elif tag == r.END:
            errors += entry[3] == "error" and entry[4].get("o", 0)
            if entry[1] == 0:
                status, end_us = entry[3], (t0_ns + entry[2]) // 1000
        elif tag == r.ARTIFACT:
            more = entry[7]
            if "g" in more:
                docs.append((more["g"], None, None))
            elif "src" in more:
                docs.append((p0 + entry[6], more["src"], more["fp"]))
        elif tag == r.LINK:
            links.append(entry)
        elif tag == r.SOURCE:
            names[r.unb64(entry[1])] = p0 + entry[2]
        elif tag == r.FINAL:
            final += entry[3]
    head = body.get("h") or {}
    row = conn.execute("SELECT id FROM trace WHERE tid=?", (tid,)).fetchone()
    if row is None:
        tags = [r.unb64(head[k]) if k in head else None for k in ("session", "actor", "subject")]
        trace = conn.execute(
            "INSERT INTO trace(tid,t0_us,end_us,status,kind,name,session,actor,subject,runs,errors)"
            " VALUES(?,?,?,?,?,?,?,?,?,?,?)",
            (tid, t0_ns // 1000, end_us, status, kind, name, *tags, runs, errors),
        ).lastrowid
    else:
        trace = row[0]
        conn.execute(
            "UPDATE trace SET runs=runs+?, errors=errors+?, end_us=coalesce(?,end_us),"
            " status=coalesce(?,status) WHERE id=?",
            (runs, errors, end_us, status, trace),
        )
    conn.execute("INSERT INTO trec VALUES(?,?)", (trace, seq))
    for source_tag, payload in names.items():
        _source(conn, source_tag, payload)
    reached = {p if p >= 0 else p0 - p - 1 for p in final}
    rows: dict[int, int] = {}
    of = _sources_of(conn, {d[0] for d in docs if d[1] is None} | reached)
    for payload, source_name, fingerprint in docs:
        if source_name is not None and fingerprint is not None:
            source = _source(conn, r.unb64(source_name), None)
            conn.execute("UPDATE payload SET source=? WHERE id=?", (source, payload))
            conn.execute("INSERT OR IGNORE INTO doc VALUES(?,?)", (r.unb64(fingerprint), payload))
            of[payload] = source
        else:
            found = of.get(payload)
            if found is None:
                continue
            source = found
        rows[source] = 0
    for payload in reached:
        found = of.get(payload)
        if found is not None:
            rows[found] = 1
    conn.executemany(
        "INSERT INTO xref VALUES(?,?,?) ON CONFLICT DO UPDATE SET reach=max(reach,excluded.reach)",
        [(source, trace, reach) for source, reach in rows.items()],
    )
    conn.executemany(
        "INSERT OR IGNORE INTO link VALUES(?,?,?,?)",
        [(r.unb64(tag), trace, role, artifact) for _, tag, artifact, role in links],
    )


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
    rows: dict[int, int] = {}
    for tag, reach in body.get("src", ()):
        source = _source(conn, r.unb64(tag), None)
        rows[source] = max(rows.get(source, 0), reach)
    conn.executemany(
        "INSERT INTO access_source VALUES(?,?,?)",
        [(s, seq, reach) for s, reach in rows.items()],
    )
