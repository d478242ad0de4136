"""The recorder: takes events on the caller's thread, hands traces to a writer thread.

The caller's thread pays for a dictionary look-up and an append. When a root run returns, what its
trace has said is sealed into a journal (``durability="trace"``) and committed soon after; where
that cannot be, the caller waits for the commit, and with ``"strict"`` until it is on disk.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import logging
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from provkeep.errors import NotAProvkeepFileError, ProvkeepError, RecordingError
from provkeep.model.events import NOTHING, Event, RunEnded, RunFailed, RunStarted
from provkeep.model.values import Memo
from provkeep.recording.buffer import DURABILITIES as DURABILITIES
from provkeep.recording.buffer import Buffer as Buffer
from provkeep.recording.buffer import Scope as Scope
from provkeep.recording.journal import is_left
from provkeep.recording.writer import POLL_S, Writer

ACKNOWLEDGE_S: Final = 10.0  # longest a chain waits for its trace to be committed
REMEMBERED_ENDS: Final = 8192  # run ids whose second end is recognised as a repetition

_ENDS: Final = frozenset({RunEnded, RunFailed})

log = logging.getLogger("provkeep")


class Recorder:
    """Records into one store; shared by all handlers of a process on that path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._runs: dict[int, Buffer] = {}
        self._ended: dict[int, None] = {}
        self._evicted: dict[int, None] = {}  # runs that were given up, or belong to a forked parent
        self._lock = threading.Lock()
        self._users = 0
        self._writer = Writer(path, self.evict)
        self._writer.open()

    def __repr__(self) -> str:
        return f"<Recorder {self.path.name}>"

    @property
    def created(self) -> bool:
        """Did this recorder make the store?"""
        return self._writer.created

    def record(self, event: Event, scope: Scope) -> None:
        """Take one event; at the end of a root run, wait as ``scope.durability`` says.

        Raises:
            ProvkeepError: ``durability="strict"`` and the trace could not be written.
        """
        rid = event.run_id
        runs = self._runs
        if type(event) is RunStarted:
            if rid in runs or rid in self._ended:
                return
            parent = event.parent_id
            buffer = runs.get(parent) if parent is not None else None
            if buffer is None:
                buffer = self._new_buffer(rid, scope, event.session)
            runs[rid] = buffer
            buffer.events.append(event)
            if len(buffer.events) >= buffer.grow_at:
                buffer.grow()
            if buffer.closed:  # given up just now: it is open again
                self._writer.submit(buffer)
            return
        buffer = runs.get(rid)
        if buffer is None:
            if rid not in self._ended and type(event) in _ENDS:
                self._orphan(event, scope)
            return
        buffer.events.append(event)
        if type(event) in _ENDS:
            runs.pop(rid, None)
            _remember(self._ended, rid)
            if rid == buffer.root and not buffer.ended:
                self._root_ended(buffer)
                return
        if len(buffer.events) >= buffer.grow_at:
            buffer.grow()
        if buffer.ended or buffer.closed:
            self._writer.submit(buffer)

    def _new_buffer(self, rid: int, scope: Scope, session: str | None = None) -> Buffer:
        names = scope.names if session is None else {**scope.names, "session": session}
        buffer = Buffer(rid, rid, scope, names)
        writer = self._writer
        writer.opened[rid] = buffer
        if not writer.running:
            _close_before_exit()
            writer.start()
        return buffer

    def _root_ended(self, buffer: Buffer) -> None:
        writer = self._writer
        if buffer.durability == "trace" and writer.keep(buffer):
            return
        # A finalizer may end an abandoned run on the writer's own thread, which waits for nobody.
        if (buffer.durability == "batch" and writer.has_room()) or writer.is_current():
            buffer.ended = True
            writer.submit(buffer)
            return
        done = _thread.allocate_lock()
        done.acquire()
        buffer.ended = True  # before a writer that looks by itself can see that somebody waits
        buffer.done = done
        writer.submit(buffer)
        until = time.monotonic() + ACKNOWLEDGE_S
        while not (acknowledged := done.acquire(timeout=POLL_S)) and time.monotonic() < until:
            writer.start()  # unless it runs
        if buffer.durability == "strict":
            if not acknowledged:
                raise RecordingError(0, 1, f"not on disk within {ACKNOWLEDGE_S:.0f} s")
            if buffer.error is not None:
                raise buffer.error

    def _orphan(self, event: Event, scope: Scope) -> None:
        """An end whose start never came, or was given up, is a trace of its own."""
        rid = event.run_id
        tid = rid
        if rid in self._evicted:
            if type(event) is RunFailed and event.status == "cancelled" and not _says(event):
                return  # it was given up, and now it says so itself
            tid = secrets.randbits(128)  # its own number may name the trace that was given up
        _remember(self._ended, rid)
        buffer = self._new_buffer(tid, scope)
        buffer.events.append(event)
        buffer.ended = True
        self._writer.submit(buffer)

    def memo(self, rid: int | None) -> Memo:
        """Snapshots already taken in the trace of this run; a new memory when it is not open."""
        buffer = self._runs.get(rid) if rid is not None else None
        return {} if buffer is None else buffer.memo

    def knows(self, rid: int) -> bool:
        """Is this run open?"""
        return rid in self._runs

    def together(self, one: int, other: int) -> bool:
        """Are both runs open, and in the same trace?"""
        trace = self._runs.get(one)
        return trace is not None and trace is self._runs.get(other)

    def evict(self, buffer: Buffer) -> None:
        """Forget the runs of a trace that was closed for them."""
        for rid in list(buffer.trace.runs):
            if self._runs.get(rid) is buffer:
                self._runs.pop(rid, None)
                _remember(self._evicted, rid)

    def fail(self, error: BaseException) -> None:
        """Remember that something could not be recorded; told at flush. Never raises."""
        self._writer.tally.add(error, 1)

    def flush(self, timeout: float | None = 60.0) -> None:
        """Wait until everything said so far is committed and signed.

        Raises:
            RecordingError: something was lost, or could not be written yet.
        """
        self._writer.flush(timeout)

    def settle(self) -> None:
        """Have what was acknowledged committed, so that whoever asks the store finds it."""
        self._writer.settle()

    def take_up(self) -> bool:
        """Commit what processes that died have left; False while this recorder is closed."""
        return self._writer.take_up()

    def acquire(self) -> None:
        """One more handler uses this recorder."""
        with self._lock:
            self._users += 1

    def release(self) -> None:
        """One handler less; the last one closes."""
        with self._lock:
            self._users = last = max(0, self._users - 1)
        if last == 0:
            self.close()
        else:
            self.flush()

    def close(self) -> None:
        """Flush, sign, and close the store. An event that comes later opens it again.

        Raises:
            RecordingError: something was lost; or it could not be written yet, and is kept.
        """
        self._writer.close()

    def after_fork(self) -> None:
        """In a forked child: the parent's thread, connections and open traces are not ours."""
        self._writer.leave()
        self._writer = Writer(self.path, self.evict)
        self._lock = threading.Lock()
        self._evicted = dict.fromkeys(self._runs)
        self._runs = {}


def _remember(ids: dict[int, None], rid: int) -> None:
    ids[rid] = None
    if len(ids) > REMEMBERED_ENDS:
        with contextlib.suppress(
            KeyError, RuntimeError, StopIteration
        ):  # another thread was faster
            del ids[next(iter(ids))]


def _says(event: RunFailed) -> bool:
    return event.outputs is not NOTHING


_recorders: dict[Path, Recorder] = {}
_lock = threading.Lock()


def recorder_for(path: str | os.PathLike[str]) -> Recorder:
    """The recorder of this process for a path, opened on first use.

    Raises:
        ProvkeepError: the store cannot be opened or made.
    """
    try:
        where = Path(path).expanduser().resolve()
    except (OSError, RuntimeError) as error:
        raise NotAProvkeepFileError(path, "its path leads nowhere") from error
    with _lock:
        found = _recorders.get(where)
        if found is None:
            found = _recorders[where] = Recorder(where)
        return found


def settle(path: Path) -> Callable[[], None]:
    """Have everything acknowledged of a store committed, so that whoever asks it finds it.

    What a recorder of this process has kept, and what processes that died have left in journals
    where this user may record into the store. Never raises: what cannot be committed now waits.

    Returns:
        the same for what this process goes on to record, as cheap as can be.
    """
    with contextlib.suppress(OSError, RuntimeError):
        path = path.resolve()

    def again() -> None:
        found = _recorders.get(path)
        if found is not None:
            found.settle()

    again()
    if path.is_file() and is_left(path):
        found = _recorders.get(path)
        if found is None or not found.take_up():
            with contextlib.suppress(ProvkeepError), contextlib.closing(Recorder(path)) as heir:
                heir.settle()
    return again


def close_all() -> None:
    """Close every recorder before the process ends; what failed is logged, never raised."""
    for recorder in list(_recorders.values()):
        try:
            recorder.close()
        except ProvkeepError as error:
            log.error("provkeep: %s (this process ends now: what waits is lost)", error)


_closes: set[int] = set()  # the process for which it is arranged; a fork arranges its own


def _close_before_exit() -> None:
    """A child of multiprocessing leaves without running atexit: have it close its recorders."""
    util = sys.modules.get("multiprocessing.util")
    process = sys.modules.get("multiprocessing.process")
    if util is None or process is None or process.parent_process() is None:
        return
    if os.getpid() not in _closes:
        _closes.add(os.getpid())
        util.Finalize(None, close_all, exitpriority=10)


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    for recorder in list(_recorders.values()):
        recorder.after_fork()


atexit.register(close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
