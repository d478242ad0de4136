"""The journal: what was acknowledged and is not committed yet, sealed, so that no chain waits.

One file per process beside the database, ``<database>.<name>.journal``: frames one after another,
each four bytes of length and eight of its number (big-endian), then as many sealed bytes. A frame
is written with one call before a root run returns, so it survives the process. What is committed is
let go of; when all is, the file is emptied. A process that died leaves its file, and the next
recorder of the store takes it up: whose lock is free has no owner.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from provkeep.errors import ProvkeepError
from provkeep.sealing.journalkey import JournalKey, new_key, read_key

try:
    import fcntl
except ImportError:  # Windows: there chains wait for their commit
    fcntl = None  # type: ignore[assignment]

SUFFIX: Final = ".journal"
MAX_FRAME: Final = 2**22  # bytes of one trace; what is larger is committed while its chain waits
MAX_FILE: Final = 2**26  # bytes of all that wait
_LENGTH, _NUMBER = 4, 8  # bytes
_HEAD: Final = _LENGTH + _NUMBER
_NAME_BYTES: Final = 8

log = logging.getLogger("provkeep")


class Journal:
    """An open journal file, locked as long as it is. Any thread may keep; the writer lets go."""

    def __init__(self, path: Path, descriptor: int, key: JournalKey) -> None:
        self.path = path
        self.kept = 0  # frames that are not committed yet
        self._descriptor, self._key = descriptor, key
        self._lock = threading.RLock()  # a finalizer may end another run while it is held
        self._number = self._size = 0
        self._open = True

    def __repr__(self) -> str:
        return f"<Journal {self.path.name}>"

    def keep(self, data: bytes) -> bool:
        """Write a frame; False when it cannot be kept here, and nothing of it was."""
        if len(data) > MAX_FRAME:
            return False
        with self._lock:
            if not self._open or self._size > MAX_FILE:
                return False
            number, self._number = self._number, self._number + 1  # before anything else may run
            sealed = self._key.seal(number, data)
            size, place = len(sealed).to_bytes(_LENGTH, "big"), number.to_bytes(_NUMBER, "big")
            frame = size + place + sealed
            try:
                written = os.write(self._descriptor, frame)
                if written != len(frame):
                    raise OSError("no room")
            except OSError:
                self._undo()
                return False
            self._size += len(frame)
            self.kept += 1
        return True

    def _undo(self) -> None:
        """Cut off what was written of a frame; a journal that cannot is not written again."""
        try:
            os.ftruncate(self._descriptor, self._size)
        except OSError:
            self._open = False

    def let_go(self) -> None:
        """One frame is committed; after the last one nothing of them is in the file."""
        with self._lock:
            self.kept -= 1
            if self.kept == 0 and self._size:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._descriptor, 0)
                    self._size = 0

    def frames(self) -> Iterator[bytes]:
        """What another process kept here, oldest first; a torn end was never acknowledged."""
        size = os.fstat(self._descriptor).st_size
        blob = os.pread(self._descriptor, size, 0)
        at = 0
        while at + _HEAD <= len(blob):
            start = at + _HEAD
            at = start + int.from_bytes(blob[at : at + _LENGTH], "big")
            number = int.from_bytes(blob[start - _HEAD + _LENGTH : start], "big")
            data = self._key.open(number, blob[start:at]) if at <= len(blob) else None
            if data is None:
                return
            yield data

    def close(self, *, remove: bool = True) -> None:
        """Release the file; removed with its key when nothing in it is needed."""
        with self._lock:
            if not self._open and self._descriptor < 0:
                return
            self._open = False
            if remove and self.kept == 0:
                with contextlib.suppress(OSError):
                    self.path.unlink(missing_ok=True)
                self._key.drop()
            descriptor, self._descriptor = self._descriptor, -1
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def leave(self) -> None:
        """In a forked child: the file is the parent's, and closing this leaves it there."""
        self._open = False
        descriptor, self._descriptor = self._descriptor, -1
        with contextlib.suppress(OSError):
            os.close(descriptor)


def begin(database: Path, store_id: bytes) -> Journal | None:
    """A new journal for this process; None where there cannot be one."""
    if fcntl is None:
        return None
    name = secrets.token_hex(_NAME_BYTES)
    path = database.with_name(f"{database.name}.{name}{SUFFIX}")
    try:
        key = new_key(store_id, name)
    except (ProvkeepError, OSError):
        return None
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
    except OSError:
        key.drop()
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # somebody who looks for journals was faster: go without one
        os.close(descriptor)
        path.unlink(missing_ok=True)
        key.drop()
        return None
    return Journal(path, descriptor, key)


def left_behind(database: Path) -> list[Path]:
    """Journals beside a database, of processes that run and of those that died."""
    with contextlib.suppress(OSError):
        return sorted(database.parent.glob(f"{_escaped(database.name)}.*{SUFFIX}"))
    return []


def is_left(database: Path) -> bool:
    """Is there a journal that nobody holds any more?"""
    return any(_is_free(path) for path in left_behind(database))


def _is_free(path: Path) -> bool:
    descriptor = _held(path)
    if descriptor is None:
        return False
    os.close(descriptor)
    return True


def _held(path: Path) -> int | None:
    """A journal opened and locked; None when its process lives, or it cannot be opened."""
    if fcntl is None:
        return None
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def take_up(path: Path, database: Path, store_id: bytes) -> Journal | None:
    """The journal of a process that died; None when it lives, or nobody can open it."""
    descriptor = _held(path)
    if descriptor is None:
        return None
    name = path.name[len(database.name) + 1 : -len(SUFFIX)]
    try:
        if not path.exists() or os.fstat(descriptor).st_ino != path.stat().st_ino:
            raise OSError("another process was faster")
        return Journal(path, descriptor, read_key(store_id, name))
    except ProvkeepError as error:
        if not os.fstat(descriptor).st_size:
            path.unlink(missing_ok=True)
        else:
            log.warning("provkeep: %s waits to be recorded and cannot be opened: %s", path, error)
    except OSError:
        pass
    os.close(descriptor)
    return None


def _escaped(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
