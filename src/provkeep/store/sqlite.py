"""A store in one SQLite file: write-ahead log, one writer at a time, any number of readers.

``BEGIN IMMEDIATE`` before the head is read: a deferred transaction that reads and then writes loses
to "database is locked" under two writers. Commits are NORMAL (they survive a killed process) unless
durability is asked for (they survive the machine): a checkpoint is always written that way, so a
published tree head is never ahead of the file.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from provkeep.errors import NotAProvkeepFileError, StoreReadOnlyError, StoreReplacedError
from provkeep.store import index, schema
from provkeep.store.connection import (
    PATIENT_MS,
    Link,
    Place,
    clear_errors,
    closed_on_error,
    connect,
    create_private,
    open_or_create,
)

__all__ = ["PAGE", "SqliteStore", "SqliteTransaction", "create_private"]

PAGE: Final = 512  # records read at a time
STORE_ID_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a connection knows of a file since its last commit, unless another wrote meanwhile."""

    version: int  # PRAGMA data_version: moved by the commits of other connections only
    head: tuple[int, bytes] | None
    next_payload: int | None


class SqliteTransaction:
    """See ``store.base.Transaction``."""

    def __init__(self, conn: sqlite3.Connection, seen: _Seen | None) -> None:
        self._conn = conn
        self.untouched = seen is not None
        self._head = None if seen is None else seen.head
        self._next = None if seen is None else seen.next_payload

    def head(self) -> tuple[int, bytes]:
        if self._head is None:
            row = self._conn.execute("SELECT size, frontier FROM head").fetchone()
            self._head = (int(row[0]), bytes(row[1])) if row else (0, b"")
        return self._head

    def next_payload(self) -> int:
        if self._next is None:
            row = self._conn.execute("SELECT max(id) FROM payload").fetchone()
            self._next = int(row[0] or 0) + 1
        return self._next

    def add(
        self, seq: int, body: bytes, fields: dict[str, Any], envelopes: Sequence[bytes]
    ) -> None:
        conn = self._conn
        conn.execute("INSERT INTO record VALUES(?,?)", (seq, body))
        if envelopes:
            p0 = fields["p0"]
            self._next = p0 + len(envelopes)
            conn.executemany(
                "INSERT INTO payload(id,seq,data) VALUES(?,?,?)",
                [(p0 + i, seq, data) for i, data in enumerate(envelopes)],
            )
        index.apply(conn, seq, fields)

    def set_head(self, size: int, frontier: bytes) -> None:
        self._head = size, frontier
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

    def newest_checkpoint(self) -> str | None:
        row = self._conn.execute("SELECT note FROM checkpoint ORDER BY size DESC").fetchone()
        return str(row[0]) if row else None

    def bodies(self, start: int, stop: int) -> list[bytes]:
        rows = self._conn.execute(
            "SELECT body FROM record WHERE seq>=? AND seq<? ORDER BY seq", (start, stop)
        )
        return [bytes(row[0]) for row in rows]

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._conn.execute(sql, parameters).fetchall()


class SqliteStore:
    """See ``store.base.Store``. One connection to write and one to read, each behind its lock.

    Args:
        path: the file; made when missing, unless ``read_only``.
        read_only: never write; ``transaction`` refuses.
        busy_ms: how long another process's lock is waited for when writing, in milliseconds.
            Reading is always patient.

    Raises:
        StoreError: the file is missing, not ours, newer, locked, or not to be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        read_only: bool = False,
        busy_ms: int = PATIENT_MS,
    ) -> None:
        self.path = Path(path).absolute()
        self.read_only = read_only
        self._busy_ms = busy_ms
        self.before: Callable[[], None] | None = None  # called before each question
        self._full = False
        self._place: Place | None = None
        self._seen: _Seen | None = None
        self._reader = Link(self._open_reader)
        self._writer = self._reader if read_only else Link(self._open_writer)
        try:
            with self._writer.lock:
                self._writer.get()
                self._place = Place(self.path)
            self.store_id = self._read_store_id()
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"<SqliteStore {self.path.name}>"

    def _open_writer(self) -> sqlite3.Connection:
        if self._place is not None:
            self._place.check()
            self._place.reopened()
        conn = open_or_create(
            self.path,
            schema.APPLICATION_ID,
            schema.MIGRATIONS,
            read_only=False,
            busy_ms=self._busy_ms,
        )
        with closed_on_error(conn):
            conn.execute("PRAGMA synchronous = NORMAL")
        self._full, self._seen = False, None
        return conn

    def _open_reader(self) -> sqlite3.Connection:
        if self._place is not None:
            self._place.check()
        if self.read_only:
            return open_or_create(
                self.path, schema.APPLICATION_ID, schema.MIGRATIONS, read_only=True
            )
        return connect(self.path, read_only=True, busy_ms=PATIENT_MS)

    def _read_store_id(self) -> bytes:
        try:
            found = bytes.fromhex(self.meta("store_id") or "")
        except ValueError:
            found = b"?"
        if len(found) not in (0, STORE_ID_BYTES):
            raise NotAProvkeepFileError(self.path, "its store id is malformed")
        return found

    def check_in_place(self) -> None:
        """Raise when the file was deleted or replaced since it was opened."""
        if self._place is None:
            raise StoreReplacedError(self.path)
        self._place.check()

    def check_whole(self) -> None:
        """The same, of its write-ahead log too."""
        self.check_in_place()
        if self._place is not None and self._place.lost_log():
            raise StoreReplacedError(self.path)

    def wait_for_locks(self, busy_ms: int) -> None:
        """From now on wait so long for another process's lock when writing, in milliseconds."""
        if busy_ms != self._busy_ms:
            self._busy_ms = busy_ms
            with self._writer.lock, clear_errors(self.path):
                self._writer.get().execute(f"PRAGMA busy_timeout = {int(busy_ms)}")

    def meta(self, key: str) -> str | None:
        """A value of the ``meta`` table."""
        with self._writer.lock, clear_errors(self.path):
            conn = self._writer.get()
            row = conn.execute("SELECT value FROM meta WHERE key=?", (key,)).fetchone()
        return str(row[0]) if row else None

    def claim(self, store_id: bytes) -> bytes:
        """Give a new file its identity; return the one it has, as another process may be first."""
        with self.transaction(durable=True) as tx:
            tx._conn.execute("INSERT OR IGNORE INTO meta VALUES('store_id',?)", (store_id.hex(),))
        self.store_id = self._read_store_id()
        return self.store_id

    @contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[SqliteTransaction]:
        if self.read_only or self._place is None:
            raise StoreReadOnlyError(self.path)
        self._place.check()
        with self._writer.lock, clear_errors(self.path):
            conn = self._writer.get()
            if durable != self._full:
                conn.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self._full = durable
            conn.execute("BEGIN IMMEDIATE")
            try:
                self._place.check_log()
                version = conn.execute("PRAGMA data_version").fetchone()[0]
                seen, self._seen = self._seen, None
                tx = SqliteTransaction(
                    conn, seen if seen is not None and seen.version == version else None
                )
                yield tx
                conn.execute("COMMIT")
                self._seen = _Seen(version, tx._head, tx._next)
            except BaseException:
                if conn.in_transaction:
                    conn.execute("ROLLBACK")
                raise

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        if self.before is not None:
            self.before()
        with self._reader.lock, clear_errors(self.path):
            return self._reader.get().execute(sql, parameters).fetchall()

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
        self._reader.close()
        self._writer.close()
