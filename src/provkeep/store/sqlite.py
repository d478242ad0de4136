"""A store in one SQLite file: write-ahead log, one writer at a time, any number of readers.

``BEGIN IMMEDIATE`` before the head is read: a deferred transaction that reads and then writes loses
to "database is locked" under two writers. Commits are NORMAL (they survive a killed process) unless
durability is asked for (they survive the machine): a checkpoint is always written that way, so a
published tree head is never ahead of the file.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import sqlite_utils

from provkeep.errors import (
    NotAProvkeepFileError,
    StoreError,
    StoreFullError,
    StoreLockedError,
    StoreNewerError,
    StoreReadOnlyError,
    StoreReplacedError,
)
from provkeep.store import index, schema

BUSY_MS: Final = 60_000
PAGE: Final = 512  # records read at a time


def connect(path: Path, *, read_only: bool = False, busy_ms: int = BUSY_MS) -> sqlite3.Connection:
    """Open a connection with the settings every provkeep file is used with."""
    mode = "ro" if read_only else "rwc"
    uri = f"{path.resolve().as_uri()}?mode={mode}"
    conn = sqlite3.connect(
        uri,
        uri=True,
        timeout=busy_ms / 1000,
        isolation_level=None,
        check_same_thread=False,
    )
    conn.execute("PRAGMA trusted_schema = OFF")
    conn.execute("PRAGMA temp_store = MEMORY")
    return conn


def create_private(path: Path) -> None:
    """Create an empty file that only its owner may read, if there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


@contextmanager
def clear_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours, which say what to do now."""
    try:
        yield
    except sqlite3.OperationalError as error:
        text = str(error)
        if "locked" in text or "busy" in text:
            raise StoreLockedError(path) from error
        if "full" in text:
            raise StoreFullError(path) from error
        if "readonly" in text or "read-only" in text:
            raise StoreReadOnlyError(path) from error
        raise StoreError(f"{path}: the database refused the operation ({text})") from error
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.IntegrityError):
            raise StoreError(f"{path}: the database holds conflicting rows ({error})") from error
        raise NotAProvkeepFileError(path, str(error)) from error


def check_identity(conn: sqlite3.Connection, path: Path, application_id: int, version: int) -> int:
    """Return the schema version; raise when the file is not ours or newer than this code."""
    found = conn.execute("PRAGMA application_id").fetchone()[0]
    if found != application_id:
        raise NotAProvkeepFileError(path, "it carries another application's mark")
    have = int(conn.execute("PRAGMA user_version").fetchone()[0])
    if have > version:
        raise StoreNewerError(path, have, version)
    return have


def open_or_create(
    path: Path, application_id: int, migrations: dict[int, str], *, read_only: bool
) -> sqlite3.Connection:
    """Open a provkeep file, creating or migrating it unless ``read_only``."""
    if not read_only:
        create_private(path)
    with clear_errors(path):
        conn = connect(path, read_only=read_only)
        try:
            empty = conn.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
            if not (empty and not read_only):
                check_identity(conn, path, application_id, max(migrations))
            if not read_only:
                conn.execute("PRAGMA journal_mode = WAL")
                schema.migrate(sqlite_utils.Database(conn), migrations, application_id)
        except BaseException:
            conn.close()
            raise
    return conn


class SqliteTransaction:
    """See ``store.base.Transaction``."""

    def __init__(self, conn: sqlite3.Connection) -> None:
        self._conn = conn

    def head(self) -> tuple[int, bytes]:
        row = self._conn.execute("SELECT size, frontier FROM head").fetchone()
        return (int(row[0]), bytes(row[1])) if row else (0, b"")

    def next_payload(self) -> int:
        row = self._conn.execute("SELECT max(id) FROM payload").fetchone()
        return int(row[0] or 0) + 1

    def add(
        self, seq: int, body: bytes, fields: dict[str, Any], envelopes: Sequence[bytes]
    ) -> None:
        conn = self._conn
        conn.execute("INSERT INTO record VALUES(?,?)", (seq, body))
        if envelopes:
            p0 = fields["p0"]
            conn.executemany(
                "INSERT INTO payload(id,seq,data) VALUES(?,?,?)",
                [(p0 + i, seq, data) for i, data in enumerate(envelopes)],
            )
        index.apply(conn, seq, fields)

    def set_head(self, size: int, frontier: bytes) -> None:
        self._conn.execute("INSERT OR REPLACE INTO head VALUES(1,?,?)", (size, frontier))

    def tile(self, level: int, index: int) -> bytes | None:
        row = self._conn.execute(
            "SELECT hashes FROM tile WHERE level=? AND idx=?", (level, index)
        ).fetchone()
        return bytes(row[0]) if row else None

    def set_tile(self, level: int, index: int, hashes: bytes) -> None:
        self._conn.execute("INSERT OR REPLACE INTO tile VALUES(?,?,?)", (level, index, hashes))

    def add_checkpoint(self, size: int, note: str) -> None:
        self._conn.execute("INSERT OR REPLACE INTO checkpoint VALUES(?,?)", (size, note))

    def bodies(self, start: int, stop: int) -> list[bytes]:
        rows = self._conn.execute(
            "SELECT body FROM record WHERE seq>=? AND seq<? ORDER BY seq", (start, stop)
        )
        return [bytes(row[0]) for row in rows]


class SqliteStore:
    """See ``store.base.Store``. One write connection behind a lock, one connection to read."""

    def __init__(self, path: str | os.PathLike[str], *, read_only: bool = False) -> None:
        self.path = Path(path).absolute()
        self.read_only = read_only
        self._lock = threading.Lock()
        self._read_lock = threading.Lock()
        if read_only and not self.path.exists():
            raise NotAProvkeepFileError(self.path, "there is no such file")
        self._conn = open_or_create(
            self.path, schema.APPLICATION_ID, schema.MIGRATIONS, read_only=read_only
        )
        self._full = False
        self._conn.execute("PRAGMA synchronous = NORMAL")
        self._reader: sqlite3.Connection | None = None
        self._inode = self._stat()
        self.store_id = bytes.fromhex(self.meta("store_id") or "")

    def __repr__(self) -> str:
        return f"<SqliteStore {self.path.name}>"

    def _stat(self) -> tuple[int, int]:
        found = self.path.stat()
        return found.st_dev, found.st_ino

    def check_in_place(self) -> None:
        """Raise when the file was deleted or replaced since it was opened."""
        try:
            same = self._stat() == self._inode
        except OSError:
            same = False
        if not same:
            raise StoreReplacedError(self.path)

    def meta(self, key: str) -> str | None:
        """A value of the ``meta`` table."""
        with clear_errors(self.path):
            row = self._conn.execute("SELECT value FROM meta WHERE key=?", (key,)).fetchone()
        return str(row[0]) if row else None

    def claim(self, store_id: bytes) -> bytes:
        """Give a new file its identity; return the identity it has (another process may be first)."""
        with self._lock, clear_errors(self.path):
            self._conn.execute("BEGIN IMMEDIATE")
            self._conn.execute("INSERT OR IGNORE INTO meta VALUES('store_id',?)", (store_id.hex(),))
            self._conn.execute("COMMIT")
        self.store_id = bytes.fromhex(self.meta("store_id") or "")
        return self.store_id

    @contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[SqliteTransaction]:
        if self.read_only:
            raise StoreReadOnlyError(self.path)
        self.check_in_place()
        with self._lock, clear_errors(self.path):
            conn = self._conn
            if durable != self._full:
                conn.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self._full = durable
            conn.execute("BEGIN IMMEDIATE")
            try:
                yield SqliteTransaction(conn)
                conn.execute("COMMIT")
            except BaseException:
                if conn.in_transaction:
                    conn.execute("ROLLBACK")
                raise

    def _read(self) -> sqlite3.Connection:
        if self._reader is None:
            self._reader = connect(self.path, read_only=True)
        return self._reader

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._read_lock, clear_errors(self.path):
            return self._read().execute(sql, parameters).fetchall()

    def records(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, bytes]]:
        while stop is None or start < stop:
            rows = self.query(
                "SELECT seq, body FROM record WHERE seq>=? AND seq<? ORDER BY seq LIMIT ?",
                (start, stop if stop is not None else 2**62, PAGE),
            )
            if not rows:
                return
            yield from ((int(seq), body) for seq, body in rows)
            start = int(rows[-1][0]) + 1

    def payloads(self, ids: Iterable[int]) -> dict[int, tuple[int, bytes | None]]:
        out: dict[int, tuple[int, bytes | None]] = {}
        wanted = sorted(set(ids))
        for at in range(0, len(wanted), PAGE):
            some = wanted[at : at + PAGE]
            marks = ",".join("?" * len(some))
            for pid, seq, data in self.query(
                f"SELECT id, seq, data FROM payload WHERE id IN ({marks})",  # noqa: S608  # marks only
                some,
            ):
                out[pid] = (seq, data)
        return out

    def close(self) -> None:
        with self._lock, self._read_lock:
            if self._reader is not None:
                self._reader.close()
                self._reader = None
            self._conn.close()

    def abandon(self) -> None:
        """Forget the connections without closing them: after fork they belong to the parent."""
        _inherited.append((self._conn, self._reader))


_inherited: list[Any] = []  # kept alive so that the child never closes the parent's locks
