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
    clear_errors,
    closed_on_error,
    open_or_create,
)

SUFFIX = "-keys"


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
