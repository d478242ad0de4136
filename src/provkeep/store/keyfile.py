"""The second file: wrapped data keys and sealed epoch keys, apart from the log.

Backups of the log carry none of them, so that an erasure (deleting rows here) holds. Written
durably and before the log refers to it; a key that nothing refers to is harmless.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from provkeep.store import schema
from provkeep.store.connection import (
    PATIENT_MS,
    Link,
    Place,
    check_identity,
    clear_errors,
    closed_on_error,
    look_at,
    open_or_create,
)

SUFFIX = "-keys"
FETCH = 4_096  # numbers of keys read at a time


def keys_path(path: str | os.PathLike[str]) -> Path:
    """Where the keys of the store at ``path`` are: beside it, with ``-keys`` appended."""
    found = Path(path).absolute()
    return found.with_name(found.name + SUFFIX)


class KeyFile:
    """Wrapped keys of one store, by number. Numbers are never used again.

    Raises:
        StoreError: the file is missing, not ours, newer, locked, or not to be written.
    """

    def __init__(self, path: Path, *, read_only: bool = False, busy_ms: int = PATIENT_MS) -> None:
        self.path = path
        self._read_only, self._busy_ms = read_only, busy_ms
        self._place: Place | None = None
        self._written: tuple[int, int] | None = None  # when, and how large
        self._link = Link(self._open)
        with self._link.lock:
            self._link.get()
            self._place = Place(path)

    def __repr__(self) -> str:
        return f"<KeyFile {self.path.name}>"

    def _open(self) -> sqlite3.Connection:
        if self._place is not None:
            self._place.check()
            self._place.reopened()
        conn = open_or_create(
            self.path,
            schema.KEYS_APPLICATION_ID,
            schema.KEYS_MIGRATIONS,
            read_only=self._read_only,
            busy_ms=self._busy_ms,
        )
        with closed_on_error(conn):
            conn.execute("PRAGMA synchronous = FULL")
            conn.execute("PRAGMA secure_delete = ON")
        return conn

    def check_in_place(self) -> None:
        """Raise when the file was deleted or replaced since it was opened."""
        if self._place is not None:
            self._place.check()

    def wait_for_locks(self, busy_ms: int) -> None:
        """From now on wait so long for another process's lock, in milliseconds."""
        if busy_ms != self._busy_ms:
            self._busy_ms = busy_ms
            with self._link.lock, clear_errors(self.path):
                self._link.get().execute(f"PRAGMA busy_timeout = {int(busy_ms)}")

    def add_epoch(self, eid: bytes, compartment: str, sealed: bytes, suite: str) -> int:
        """Keep a sealed epoch key; return its number."""
        with self._write() as conn:
            cursor = conn.execute(
                "INSERT INTO epoch(eid,compartment,sealed,suite) VALUES(?,?,?,?)",
                (eid, compartment, sealed, suite),
            )
            return int(cursor.lastrowid or 0)

    def add_keys(self, epoch: int, wrapped: Sequence[bytes]) -> list[int]:
        """Keep wrapped data keys; return their numbers."""
        statement = "INSERT INTO datakey(epoch,wrapped) VALUES(?,?)"
        with self._write() as conn:
            return [int(conn.execute(statement, (epoch, key)).lastrowid or 0) for key in wrapped]

    def drop_keys(self, ids: Iterable[int]) -> None:
        """Delete wrapped keys."""
        with self._write() as conn:
            conn.executemany("DELETE FROM datakey WHERE id=?", [(i,) for i in ids])

    def key(self, number: int) -> tuple[bytes, bytes, str, bytes, str] | None:
        """Wrapped key, epoch id, compartment, sealed epoch key and suite; None when absent."""
        with self._link.lock, clear_errors(self.path):
            row = (
                self._link.get()
                .execute(
                    "SELECT d.wrapped, e.eid, e.compartment, e.sealed, e.suite"
                    " FROM datakey d JOIN epoch e ON e.id = d.epoch WHERE d.id=?",
                    (number,),
                )
                .fetchone()
            )
        return tuple(row) if row else None

    # -- rotating --------------------------------------------------------------------------------

    def epochs(self) -> list[tuple[int, bytes, str, bytes]]:
        """All sealed epoch keys: number, id, compartment, sealed."""
        with self._link.lock, clear_errors(self.path):
            rows = self._link.get().execute("SELECT id, eid, compartment, sealed FROM epoch")
            return [(int(n), bytes(e), str(c), bytes(s)) for n, e, c, s in rows]

    def reseal(self, changed: Sequence[tuple[int, bytes, str]]) -> None:
        """Replace sealed epoch keys, all or none: number, sealed, suite."""
        with self._write() as conn:
            conn.executemany(
                "UPDATE epoch SET sealed=?, suite=? WHERE id=?",
                [(sealed, suite, number) for number, sealed, suite in changed],
            )

    def epoch_mark(self) -> int:
        """How often recorders were asked to begin a new epoch; 0 for never."""
        return max(0, self._noted("epoch"))

    def ask_new_epoch(self) -> None:
        """Have every recorder begin a new epoch with its next data keys."""
        self._note("epoch", self.epoch_mark() + 1)

    def was_written(self) -> bool:
        """Was the file, apart from its write-ahead log, written since this was asked last?"""
        found = os.stat(self.path)  # noqa: PTH116  # once a turn of the recorder
        mark = found.st_mtime_ns, found.st_size
        before, self._written = self._written, mark
        return mark != before

    # -- erasing ---------------------------------------------------------------------------------

    def erased_through(self) -> int:
        """The newest erase record whose keys are known to be in no file any more; -1 for none."""
        return self._noted("erased")

    def erase(self, ranges: Sequence[tuple[int, int]], through: int, *, busy_ms: int) -> bool:
        """Destroy wrapped keys, so that their bytes are in this file and its log no more.

        Deleting is not enough: a page that was split may keep a copy of what it once held beside
        its rows (seen with SQLite 3.40 in spite of ``secure_delete``), so the file is rebuilt, and
        then the write-ahead log is emptied into it.

        Args:
            ranges: first and last numbers, both included.
            through: number of the newest erase record that names them.
            busy_ms: how long to wait for readers that still use the old state, in milliseconds.

        Returns:
            False while a reader holds it back: the keys are deleted, their bytes may still be in
            the write-ahead log. Call again later.
        """
        self.check_in_place()
        with self._link.lock, clear_errors(self.path):
            conn = self._link.get()
            if self._noted("rebuilt") < through:
                with self._write() as tx:
                    tx.executemany("DELETE FROM datakey WHERE id BETWEEN ? AND ?", ranges)
                    # an old key file that was put back must not give an erased number again
                    last = max((last for _, last in ranges), default=0)
                    tx.execute(
                        "UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = 'datakey'",
                        (last,),
                    )
                conn.execute("VACUUM")
                self._note("rebuilt", through)
            conn.execute(f"PRAGMA busy_timeout = {int(busy_ms)}")
            try:
                busy = conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            finally:
                conn.execute(f"PRAGMA busy_timeout = {int(self._busy_ms)}")
            if busy:
                return False
            self._note("erased", through)
            return True

    def _noted(self, key: str) -> int:
        with self._link.lock, clear_errors(self.path):
            conn = self._link.get()
            row = conn.execute("SELECT value FROM meta WHERE key=?", (key,)).fetchone()
        return int(row[0]) if row else -1

    def _note(self, key: str, value: int) -> None:
        with self._write() as conn:
            conn.execute("INSERT OR REPLACE INTO meta VALUES(?,?)", (key, str(value)))

    def newest_epoch(self, compartment: str) -> tuple[bytes, bytes] | None:
        """Id and sealed key of the newest epoch of a compartment."""
        sql = "SELECT eid, sealed FROM epoch WHERE compartment=? ORDER BY id DESC LIMIT 1"
        with self._link.lock, clear_errors(self.path):
            row = self._link.get().execute(sql, (compartment,)).fetchone()
        return (bytes(row[0]), bytes(row[1])) if row else None

    def put_sealed_grant(self, key: str, sealed: bytes) -> None:
        """Keep what a grant sealed."""
        with self._write() as conn:
            conn.execute("INSERT INTO meta VALUES(?,?)", (key, sealed.hex()))

    def sealed_grant(self, key: str) -> bytes | None:
        """What a grant sealed; None when it was revoked, or is not whole."""
        with self._link.lock, clear_errors(self.path):
            sql = "SELECT value FROM meta WHERE key=?"
            row = self._link.get().execute(sql, (key,)).fetchone()
        try:
            return bytes.fromhex(row[0]) if row else None
        except (ValueError, TypeError):
            return None

    def drop_sealed_grant(self, key: str) -> None:
        """Delete what a grant sealed."""
        with self._write() as conn:
            conn.execute("DELETE FROM meta WHERE key=?", (key,))

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """One immediate transaction."""
        self.check_in_place()
        with self._link.lock, clear_errors(self.path):
            conn = self._link.get()
            conn.execute("BEGIN IMMEDIATE")
            try:
                if self._place is not None:
                    self._place.check_log()
                yield conn
                conn.execute("COMMIT")
            except BaseException:
                if conn.in_transaction:
                    conn.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Release the file; idempotent."""
        self._link.close()


class KeyNumbers:
    """Which keys a key file holds, for whoever may not or need not open them. Writes nothing.

    Args:
        path: the key file.
        still: nobody writes it and its write-ahead log is empty, so that no lock is needed.

    Raises:
        StoreError: it is not a key file, or cannot be read.
    """

    def __init__(self, path: Path, *, still: bool) -> None:
        self._path = path
        with clear_errors(path):
            self._conn = look_at(path, still=still)
            with closed_on_error(self._conn):
                check_identity(
                    self._conn, path, schema.KEYS_APPLICATION_ID, max(schema.KEYS_MIGRATIONS)
                )
                self._conn.execute("BEGIN")

    def all(self) -> Iterator[Sequence[int]]:
        """Numbers of all keys, in order, many at a time."""
        with clear_errors(self._path):
            found = self._conn.execute("SELECT id FROM datakey ORDER BY id")
            while some := found.fetchmany(FETCH):
                yield [number for (number,) in some]

    def erased_through(self) -> int:
        """See ``KeyFile.erased_through``."""
        with clear_errors(self._path):
            row = self._conn.execute("SELECT value FROM meta WHERE key='erased'").fetchone()
        return int(row[0]) if row and str(row[0]).isdigit() else -1

    def close(self) -> None:
        """Release the file."""
        self._conn.close()
