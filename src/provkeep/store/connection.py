"""Connections to provkeep's files: private, guarded against strangers' files, safe under fork.

SQLite's locks belong to a process and do not survive a fork, but its memory of holding them does: a
child that opened the same file would believe in locks it never took, and the parent's last close
would delete the write-ahead log under it. So every connection is closed before a fork and opened
again by whoever uses it next (https://sqlite.org/howtocorrupt.html, section 2.6).
"""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from provkeep.errors import (
    NotAProvkeepFileError,
    StoreError,
    StoreFullError,
    StoreLockedError,
    StoreNewerError,
    StoreReadOnlyError,
    StoreReplacedError,
)
from provkeep.store import schema

PATIENT_MS: Final = 60_000  # how long a lock is waited for by whoever has nothing else to do
RETRY_OPEN_S: Final = 0.02  # making a file write-ahead answers "busy" at once, without waiting
FORK_WAIT_S: Final = 30.0  # longest that a fork waits for a connection in use


@contextmanager
def clear_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours, which say what to do now."""
    try:
        yield
    except sqlite3.Error as error:
        raise _ours(error, path) from error
    except UnicodeDecodeError as error:  # SQLite quotes the damage in its message
        raise StoreError(f"{path} is damaged; restore it from a copy, keep this one") from error


def _ours(error: sqlite3.Error, path: Path) -> StoreError:
    code = getattr(error, "sqlite_errorcode", 0)
    if code == sqlite3.SQLITE_READONLY_DBMOVED:
        return StoreReplacedError(path)
    kind, text = code & 0xFF, str(error)  # the extended code's first byte is the plain one
    if kind in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreLockedError(path)
    if kind == sqlite3.SQLITE_FULL:
        return StoreFullError(path)
    if kind in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return StoreReadOnlyError(path)
    if kind == sqlite3.SQLITE_NOTADB:
        return NotAProvkeepFileError(path, "it is not a database")
    if kind == sqlite3.SQLITE_CORRUPT:
        return StoreError(f"{path} is damaged ({text}); restore it from a copy, keep this one")
    if kind == sqlite3.SQLITE_CANTOPEN:
        return StoreError(f"{path} cannot be opened; allow this user to use it and its folder")
    if kind == sqlite3.SQLITE_CONSTRAINT:
        return StoreError(f"{path}: the database holds conflicting rows ({text})")
    if isinstance(error, sqlite3.ProgrammingError):
        return StoreError(f"{path} is closed; open it again")
    return StoreError(f"{path}: the database refused the operation ({text}); check disk and file")


def create_private(path: Path) -> None:
    """Create an empty file that only its owner may read, if there is none.

    One that is there is not opened: closing it again would take away the locks that this process's
    connections hold on it, and another process's last close would delete the write-ahead log under
    them (https://sqlite.org/howtocorrupt.html, section 2.2).

    Raises:
        StoreError: it cannot be made or written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            if path.is_dir():
                raise NotAProvkeepFileError(path, "it is a folder")
            if path.stat().st_size == 0 and os.name == "posix":
                path.chmod(0o600)  # somebody's empty file becomes ours
            if not os.access(path, os.R_OK | os.W_OK):
                raise StoreReadOnlyError(path)
        except FileNotFoundError:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except (NotADirectoryError, FileExistsError) as error:
        raise NotAProvkeepFileError(path, "a part of its path is a file") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFullError(path) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise StoreReadOnlyError(path) from error
        raise StoreError(f"{path} cannot be made ({error.strerror}); check the path") from error


def connect(path: Path, *, read_only: bool, busy_ms: int) -> sqlite3.Connection:
    """Open a connection with the settings every provkeep file is used with."""
    conn = _connect(path, "mode=ro" if read_only else "mode=rwc", busy_ms)
    if read_only:
        try:
            with closed_on_error(conn):
                conn.execute("SELECT 1 FROM sqlite_schema").fetchone()
        except sqlite3.OperationalError as error:
            code = error.sqlite_errorcode & 0xFF
            log = path.with_name(path.name + "-wal")
            if code not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY) or log.exists():
                raise
            # A folder that may not be written has no room for SQLite's index of the write-ahead
            # log; without such a log nobody is writing either.
            conn = _connect(path, "mode=ro&immutable=1", busy_ms)
    return conn


def look_at(path: Path, *, still: bool) -> sqlite3.Connection:
    """Open a connection that only reads; where nothing changes, without a file beside it."""
    return _connect(path, f"mode=ro{'&immutable=1' if still else ''}", PATIENT_MS)


def _connect(path: Path, mode: str, busy_ms: int) -> sqlite3.Connection:
    conn = sqlite3.connect(
        f"{path.resolve().as_uri()}?{mode}",
        uri=True,
        timeout=busy_ms / 1000,
        isolation_level=None,
        check_same_thread=False,
    )
    with closed_on_error(conn):
        conn.execute("PRAGMA trusted_schema = OFF")
        conn.execute("PRAGMA temp_store = MEMORY")
    return conn


@contextmanager
def closed_on_error(conn: sqlite3.Connection) -> Iterator[None]:
    """Close a new connection if what is done to it first fails: nobody else holds it yet."""
    try:
        yield
    except BaseException:
        conn.close()
        raise


def check_identity(conn: sqlite3.Connection, path: Path, application_id: int, version: int) -> int:
    """Return the schema version; raise when the file is not ours or newer than this code."""
    found = conn.execute("PRAGMA application_id").fetchone()[0]
    if found != application_id:
        raise NotAProvkeepFileError(path, "it is a database of another application")
    have = int(conn.execute("PRAGMA user_version").fetchone()[0])
    if have > version:
        raise StoreNewerError(path, have, version)
    return have


def open_or_create(
    path: Path,
    application_id: int,
    migrations: dict[int, str],
    *,
    read_only: bool,
    busy_ms: int = PATIENT_MS,
) -> sqlite3.Connection:
    """Open a provkeep file, creating or migrating it unless ``read_only``.

    Raises:
        StoreError: it is missing, not ours, newer, locked, or not to be written.
    """
    if not read_only:
        create_private(path)
    elif path.is_dir():
        raise NotAProvkeepFileError(path, "it is a folder")
    elif not path.exists():
        raise NotAProvkeepFileError(path, "there is no such file")
    until = time.monotonic() + busy_ms / 1000
    while True:
        try:
            with clear_errors(path):
                return _open(path, application_id, migrations, read_only, busy_ms)
        except StoreLockedError:
            if time.monotonic() >= until:
                raise
            time.sleep(RETRY_OPEN_S)


def _open(
    path: Path, application_id: int, migrations: dict[int, str], read_only: bool, busy_ms: int
) -> sqlite3.Connection:
    conn = connect(path, read_only=read_only, busy_ms=busy_ms)
    with closed_on_error(conn):
        if conn.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            check_identity(conn, path, application_id, max(migrations))
        elif read_only:
            raise NotAProvkeepFileError(path, "it is empty")
        if not read_only:
            if conn.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                conn.execute("PRAGMA journal_mode = WAL")
            if conn.execute("PRAGMA user_version").fetchone()[0] < max(migrations):
                from sqlite_utils import (
                    Database,
                )  # not above: it loads pandas where it is installed

                schema.migrate(Database(conn), migrations, application_id)
    return conn


class Place:
    """Where a file was when it was opened, to notice that it is no longer there."""

    __slots__ = ("_identity", "_log", "_log_identity", "_name", "path")

    def __init__(self, path: Path) -> None:
        self.path, self._name = path, str(path)
        self._log = self._name + "-wal"
        self._identity = _identity(self._name)
        self._log_identity: tuple[int, int] | None = None

    def check(self) -> None:
        """Raise when the file was deleted or replaced since."""
        if self._identity is None or _identity(self._name) != self._identity:
            raise StoreReplacedError(self.path)

    def check_log(self) -> None:
        """The same for the write-ahead log, which is there as long as a connection uses it."""
        found = _identity(self._log)
        if found is None or found != (self._log_identity or found):
            raise StoreReplacedError(self.path)
        self._log_identity = found

    def lost_log(self) -> bool:
        """Is the write-ahead log of the last commit no longer there? Any thread may ask."""
        known = self._log_identity
        return known is not None and _identity(self._log) != known

    def reopened(self) -> None:
        """A new connection has a new write-ahead log."""
        self._log_identity = None


def _identity(name: str) -> tuple[int, int] | None:
    try:
        found = os.stat(name)  # noqa: PTH116  # once a commit: a Path costs three times as much
    except OSError:
        return None
    return found.st_dev, found.st_ino


class Link:
    """One connection behind a lock: opened when first used, and again after a fork."""

    __slots__ = ("__weakref__", "_closed", "_conn", "_open", "lock")

    def __init__(self, opener: Callable[[], sqlite3.Connection]) -> None:
        self.lock = threading.RLock()
        self._open = opener
        self._conn: sqlite3.Connection | None = None
        self._closed = False
        _links.add(self)

    def get(self) -> sqlite3.Connection:
        """The connection; only with ``lock`` held."""
        conn = self._conn
        if conn is None:
            if self._closed:
                raise sqlite3.ProgrammingError("closed")
            conn = self._conn = self._open()
        return conn

    def suspend(self) -> None:
        """Release the file until the next ``get``."""
        with self.lock:
            conn, self._conn = self._conn, None
            if conn is not None:
                conn.close()

    def close(self) -> None:
        """Release the file for good; idempotent."""
        with self.lock:
            self._closed = True
            self.suspend()

    def __del__(self) -> None:
        """Release the file: what still had something to write is forgotten without a ``close``."""
        conn = getattr(self, "_conn", None)
        if conn is not None:
            conn.close()


_links: weakref.WeakSet[Link] = weakref.WeakSet()
_forking = threading.RLock()  # several threads may fork at once
_held: list[Link] = []
_inherited: list[Any] = []  # what could not be closed in time: the child must never close it


def _before_fork() -> None:
    _forking.acquire()
    for link in list(_links):
        if link.lock.acquire(timeout=FORK_WAIT_S):
            _held.append(link)
            link.suspend()


def _after_fork_in_parent() -> None:
    while _held:
        _held.pop().lock.release()
    _forking.release()


def _after_fork_in_child() -> None:
    global _forking
    _forking = threading.RLock()
    _held.clear()
    for link in list(_links):
        link.lock = threading.RLock()
        if link._conn is not None:
            _inherited.append(link._conn)
            link._conn = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
