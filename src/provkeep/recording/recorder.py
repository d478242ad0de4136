"""The recorder: takes events on the caller's thread, hands traces to a writer thread.

The caller's thread pays for a dictionary look-up and an append. Only when a root run returns does
it wait, until its trace is committed (``durability="trace"``) or on disk (``"strict"``).
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import logging
import os
import threading
from collections import deque
from pathlib import Path
from typing import Any, Final

from provkeep.errors import ProvkeepError, RecordingError
from provkeep.model.events import Event, RunEnded, RunFailed, RunStarted
from provkeep.model.values import Memo
from provkeep.recording.writer import Writer

DURABILITIES: Final = ("batch", "trace", "strict")
ACKNOWLEDGE_S: Final = 10.0  # longest a chain waits for its trace to be committed
REMEMBERED_ENDS: Final = 8192  # run ids whose second end is recognised as a repetition

_ENDS: Final = frozenset({RunEnded, RunFailed})

log = logging.getLogger("provkeep")


class Scope:
    """What a handler says of every trace it begins."""

    __slots__ = ("durability", "names")

    def __init__(self, durability: str = "trace", names: dict[str, str] | None = None) -> None:
        if durability not in DURABILITIES:
            raise ValueError(f"durability is one of {', '.join(DURABILITIES)}, not {durability!r}")
        self.durability = durability
        self.names = names or {}


class Buffer:
    """The events of one trace that the writer has not taken yet."""

    __slots__ = (
        "done",
        "durability",
        "ended",
        "error",
        "events",
        "memo",
        "names",
        "root",
        "tid",
        "trace",
    )

    def __init__(self, tid: int, root: int | None, scope: Scope, names: dict[str, str]) -> None:
        self.tid, self.root = tid, root
        self.events: deque[Event] = deque()
        self.names = names
        self.memo: Memo = {}
        self.durability = scope.durability
        self.ended = False
        self.done: _thread.LockType | None = None
        self.error: ProvkeepError | None = None
        self.trace: Any = None  # the writer's


class Recorder:
    """Records into one store; shared by all handlers of a process on that path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._runs: dict[int, Buffer] = {}
        self._ended: dict[int, None] = {}
        self._start_lock = threading.Lock()
        self._users = 0
        self._writer: Writer | None = self._new_writer()
        self._writer.open()
        self._orphans = 0

    def __repr__(self) -> str:
        return f"<Recorder {self.path.name}>"

    def _new_writer(self) -> Writer:
        writer = Writer(self.path)
        writer.on_evict = self.evict
        return writer

    def _live(self) -> Writer:
        writer = self._writer
        if writer is None or not writer.running:
            with self._start_lock:
                writer = self._writer
                if writer is None:
                    writer = self._writer = self._new_writer()
                writer.start()
        return writer

    @property
    def created(self) -> bool:
        """Did this recorder make the store?"""
        writer = self._writer
        return writer is not None and writer.created

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
            if buffer is None or buffer.ended:
                names = scope.names
                session = event.session
                if session is not None:
                    names = {**names, "session": session}
                buffer = Buffer(rid, rid, scope, names)
                self._live().opened[rid] = buffer
            runs[rid] = buffer
            buffer.events.append(event)
            return
        buffer = runs.get(rid)
        if buffer is None:
            if rid in self._ended:
                return
            self._orphan(event, scope)
            return
        buffer.events.append(event)
        if type(event) in _ENDS:
            runs.pop(rid, None)
            ended = self._ended
            ended[rid] = None
            if len(ended) > REMEMBERED_ENDS:
                with contextlib.suppress(KeyError, RuntimeError, StopIteration):
                    del ended[next(iter(ended))]
            if rid == buffer.root:
                self._root_ended(buffer)
            elif buffer.ended:
                self._live().submit(buffer)

    def _root_ended(self, buffer: Buffer) -> None:
        buffer.ended = True
        writer = self._live()
        if buffer.durability == "batch":
            writer.submit(buffer)
            return
        done = buffer.done = _thread.allocate_lock()
        done.acquire()
        writer.submit(buffer)
        acknowledged = done.acquire(timeout=ACKNOWLEDGE_S)
        if buffer.durability == "strict":
            if buffer.error is not None:
                raise buffer.error
            if not acknowledged:
                raise RecordingError(0, 1, f"not on disk within {ACKNOWLEDGE_S:.0f} s")

    def _orphan(self, event: Event, scope: Scope) -> None:
        """An end whose start never came is a trace of its own."""
        if type(event) not in (RunEnded, RunFailed):
            return
        buffer = Buffer(event.run_id, event.run_id, scope, scope.names)
        buffer.events.append(event)
        buffer.ended = True
        self._ended[event.run_id] = None
        writer = self._live()
        writer.opened[event.run_id] = buffer
        writer.submit(buffer)

    def memo(self, rid: int | None) -> Memo:
        """Snapshots already taken in the trace of this run; a new memory when it is not open."""
        buffer = self._runs.get(rid) if rid is not None else None
        return {} if buffer is None else buffer.memo

    def knows(self, rid: int) -> bool:
        """Is this run open?"""
        return rid in self._runs

    def evict(self, buffer: Buffer) -> None:
        """Forget the runs of a trace that was closed for them."""
        for rid in [rid for rid, held in list(self._runs.items()) if held is buffer]:
            self._runs.pop(rid, None)
            self._ended[rid] = None

    def fail(self, error: BaseException) -> None:
        """Remember that something could not be recorded; told at flush."""
        self._live().failed(error, 1)

    def flush(self, timeout: float | None = 60.0) -> None:
        """Wait until everything said so far is committed and signed.

        Raises:
            RecordingError: something was lost, or could not be written yet.
        """
        self._live().flush(timeout)

    def acquire(self) -> None:
        """One more handler uses this recorder."""
        self._users += 1

    def release(self) -> None:
        """One handler less; the last one closes."""
        self._users = max(0, self._users - 1)
        if self._users == 0:
            self.close()
        else:
            self.flush()

    def close(self) -> None:
        """Flush, sign, and close the store. An event that comes later opens it again."""
        with self._start_lock:
            writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def after_fork(self) -> None:
        """In a forked child: the parent's thread, connections and open traces are not ours."""
        writer, self._writer = self._writer, None
        self._start_lock = threading.Lock()
        self._runs, self._ended = {}, {}
        if writer is not None:
            writer.abandon()


_recorders: dict[Path, Recorder] = {}
_lock = threading.Lock()


def recorder_for(path: str | os.PathLike[str]) -> Recorder:
    """The recorder of this process for a path, opened on first use.

    Raises:
        ProvkeepError: the store cannot be opened or made.
    """
    where = Path(path).expanduser().resolve()
    with _lock:
        found = _recorders.get(where)
        if found is None:
            found = _recorders[where] = Recorder(where)
        return found


def close_all() -> None:
    """Close every recorder of this process; what failed is logged, never raised."""
    for recorder in list(_recorders.values()):
        try:
            recorder.close()
        except ProvkeepError as error:
            log.error("provkeep: %s", error)


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    for recorder in _recorders.values():
        recorder.after_fork()


atexit.register(close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
