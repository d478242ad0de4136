"""The tables of a provkeep file, as numbered migrations.

``record``, ``payload`` and ``checkpoint`` are the log; ``tile`` and ``head`` its tree; the rest is
an index that ``store.index`` derives from the records and that can be thrown away and rebuilt.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import sqlite_utils

APPLICATION_ID: Final = 0x70724B70  # "prKp", PRAGMA application_id
KEYS_APPLICATION_ID: Final = 0x70724B6B  # "prKk"
VERSION: Final = 1

_V1: Final = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE record(seq INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE payload(id INTEGER PRIMARY KEY, seq INTEGER NOT NULL, source INTEGER, data BLOB);
CREATE TABLE checkpoint(size INTEGER PRIMARY KEY, note TEXT NOT NULL);
CREATE TABLE tile(level INTEGER, idx INTEGER, hashes BLOB NOT NULL,
                  PRIMARY KEY(level, idx)) WITHOUT ROWID;
CREATE TABLE head(id INTEGER PRIMARY KEY CHECK(id = 1), size INTEGER NOT NULL,
                  frontier BLOB NOT NULL);
CREATE TABLE trace(id INTEGER PRIMARY KEY, tid BLOB NOT NULL UNIQUE, t0_us INTEGER NOT NULL,
                   end_us INTEGER, status TEXT, kind TEXT, name TEXT, session BLOB, actor BLOB,
                   subject BLOB, runs INTEGER NOT NULL, errors INTEGER NOT NULL,
                   answer INTEGER);
CREATE INDEX trace_t0 ON trace(t0_us);
CREATE INDEX trace_session ON trace(session) WHERE session IS NOT NULL;
CREATE INDEX trace_actor ON trace(actor) WHERE actor IS NOT NULL;
CREATE INDEX trace_subject ON trace(subject) WHERE subject IS NOT NULL;
CREATE TABLE trec(trace INTEGER, seq INTEGER, PRIMARY KEY(trace, seq)) WITHOUT ROWID;
CREATE TABLE source(id INTEGER PRIMARY KEY, tag BLOB NOT NULL UNIQUE, payload INTEGER);
CREATE TABLE doc(tag BLOB PRIMARY KEY, payload INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE xref(source INTEGER, trace INTEGER, reach INTEGER NOT NULL,
                  PRIMARY KEY(source, trace)) WITHOUT ROWID;
CREATE TABLE link(tag BLOB, trace INTEGER, role INTEGER, artifact INTEGER NOT NULL,
                  PRIMARY KEY(tag, trace, role)) WITHOUT ROWID;
CREATE TABLE access(seq INTEGER PRIMARY KEY, at_us INTEGER NOT NULL, actor BLOB, tid BLOB,
                    kind TEXT NOT NULL);
CREATE INDEX access_actor ON access(actor);
CREATE TABLE access_trace(tid BLOB, seq INTEGER, PRIMARY KEY(tid, seq)) WITHOUT ROWID;
CREATE TABLE access_source(source INTEGER, seq INTEGER, reach INTEGER NOT NULL,
                           PRIMARY KEY(source, seq)) WITHOUT ROWID;
CREATE TABLE erasure(seq INTEGER PRIMARY KEY, at_us INTEGER NOT NULL, what TEXT NOT NULL);
CREATE TABLE gone(first INTEGER, seq INTEGER, last INTEGER NOT NULL,
                  PRIMARY KEY(first, seq)) WITHOUT ROWID;
CREATE TABLE hold(what TEXT, id BLOB, seq INTEGER NOT NULL, PRIMARY KEY(what, id)) WITHOUT ROWID;
CREATE TABLE keychange(seq INTEGER PRIMARY KEY, kind TEXT NOT NULL);
CREATE TABLE grants(id BLOB PRIMARY KEY, seq INTEGER NOT NULL, reader BLOB NOT NULL,
                    revoked INTEGER) WITHOUT ROWID;
"""
INDEX_TABLES: Final = (
    "trace",
    "trec",
    "source",
    "doc",
    "xref",
    "link",
    "access",
    "access_source",
    "erasure",
    "gone",
    "hold",
    "access_trace",
    "grants",
    "keychange",
)

_KEYS_V1: Final = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE epoch(id INTEGER PRIMARY KEY AUTOINCREMENT, eid BLOB NOT NULL UNIQUE,
                   compartment TEXT NOT NULL, sealed BLOB NOT NULL, suite TEXT NOT NULL);
CREATE TABLE datakey(id INTEGER PRIMARY KEY AUTOINCREMENT, epoch INTEGER NOT NULL,
                     wrapped BLOB NOT NULL);
"""

MIGRATIONS: Final = {1: _V1}
KEYS_MIGRATIONS: Final = {1: _KEYS_V1}


def migrate(db: sqlite_utils.Database, migrations: dict[int, str], application_id: int) -> None:
    """Bring a database up to the newest schema, one committed step at a time."""
    _migrate(db.conn, migrations, application_id)


def _migrate(conn: sqlite3.Connection, migrations: dict[int, str], application_id: int) -> None:
    while conn.execute("PRAGMA user_version").fetchone()[0] < max(migrations):
        conn.execute("BEGIN IMMEDIATE")
        try:
            version = conn.execute("PRAGMA user_version").fetchone()[0]
            if version >= max(migrations):  # another process was faster
                conn.execute("COMMIT")
                return
            for statement in migrations[version + 1].split(";\n"):
                if statement.strip():
                    conn.execute(statement)
            conn.execute(f"PRAGMA application_id = {application_id}")
            conn.execute(f"PRAGMA user_version = {version + 1}")
            conn.execute("COMMIT")
        except BaseException:
            if conn.in_transaction:
                conn.execute("ROLLBACK")
            raise


def expected_schema(migrations: dict[int, str], application_id: int) -> set[tuple[str, str]]:
    """Names and texts of ``sqlite_schema`` as a new file has them."""
    # Not by sqlite_utils, which loads pandas where it is installed: a second, and 70 MB.
    conn = sqlite3.connect(":memory:", isolation_level=None)
    try:
        _migrate(conn, migrations, application_id)
        rows = conn.execute("SELECT name, coalesce(sql, '') FROM sqlite_schema").fetchall()
    finally:
        conn.close()
    return {(str(n), str(s)) for n, s in rows}
