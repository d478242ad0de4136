"""The second file: wrapped data keys and sealed epoch keys, apart from the log.

Backups of the log carry none of them, so that an erasure (deleting rows here) holds. Written
durably and before the log refers to it; a key that nothing refers to is harmless.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from provkeep.errors import NotAProvkeepFileError
from provkeep.store import schema
from provkeep.store.sqlite import clear_errors, open_or_create

SUFFIX = "-keys"


def keys_path(path: str | os.PathLike[str]) -> Path:
    """Where the keys of the store at ``path`` are: beside it, with ``-keys`` appended."""
    found = Path(path).absolute()
    return found.with_name(found.name + SUFFIX)


class KeyFile:
    """Wrapped keys of one store, by number. Numbers are never used again."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        if read_only and not path.exists():
            raise NotAProvkeepFileError(path, "there is no such file")
        self._lock = threading.Lock()
        self._conn = open_or_create(
            path,
            schema.KEYS_APPLICATION_ID,
            schema.KEYS_MIGRATIONS,
            read_only=read_only,
        )
        self._conn.execute("PRAGMA synchronous = FULL")
        self._conn.execute("PRAGMA secure_delete = ON")

    def __repr__(self) -> str:
        return f"<KeyFile {self.path.name}>"

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
        with self._write() as conn:
            return [
                int(
                    conn.execute(
                        "INSERT INTO datakey(epoch,wrapped) VALUES(?,?)", (epoch, key)
                    ).lastrowid
                    or 0
                )
                for key in wrapped
            ]

    def drop_keys(self, ids: Iterable[int]) -> None:
        """Delete wrapped keys."""
        with self._write() as conn:
            conn.executemany("DELETE FROM datakey WHERE id=?", [(i,) for i in ids])

    def key(self, number: int) -> tuple[bytes, bytes, str, bytes, str] | None:
        """Wrapped key, epoch id, compartment, sealed epoch key and suite; None when absent."""
        with self._lock, clear_errors(self.path):
            row = self._conn.execute(
                "SELECT d.wrapped, e.eid, e.compartment, e.sealed, e.suite"
                " FROM datakey d JOIN epoch e ON e.id = d.epoch WHERE d.id=?",
                (number,),
            ).fetchone()
        return tuple(row) if row else None

    def _write(self) -> _Write:
        return _Write(self)

    def close(self) -> None:
        with self._lock:
            self._conn.close()

    def abandon(self) -> None:
        """See ``SqliteStore.abandon``."""
        from provkeep.store import sqlite

        sqlite._inherited.append(self._conn)


class _Write:
    """One immediate transaction on a key file."""

    def __init__(self, keys: KeyFile) -> None:
        self._keys = keys

    def __enter__(self) -> sqlite3.Connection:
        self._keys._lock.acquire()
        try:
            with clear_errors(self._keys.path):
                self._keys._conn.execute("BEGIN IMMEDIATE")
        except BaseException:
            self._keys._lock.release()
            raise
        return self._keys._conn

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            with clear_errors(self._keys.path):
                self._keys._conn.execute("ROLLBACK" if kind else "COMMIT")
        finally:
            self._keys._lock.release()
