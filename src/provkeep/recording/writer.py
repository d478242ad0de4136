"""The writer: one thread per process and store, which turns traces into committed records.

It takes events from buffers, decides when a trace is over, and acknowledges; ``outbox`` seals and
commits. Nothing that goes wrong here is raised into a chain, except under ``strict``.
"""

from __future__ import annotations

import _thread
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final

from provkeep.errors import ProvkeepError, RecordingError, StoreError, StoreLockedError
from provkeep.model import events as ev
from provkeep.recording.keeping import Keeping
from provkeep.recording.opening import open_for_recording
from provkeep.recording.outbox import BUSY_MS, Outbox
from provkeep.recording.telling import Flush, Settle, Tally, where
from provkeep.recording.trace import Trace

if TYPE_CHECKING:
    from provkeep.recording.buffer import Buffer

TICK_S: Final = 0.5  # how often open traces are looked at
PARTIAL_S: Final = 1.0  # an open trace is written this often
LINGER_S: Final = 2.0  # how long runs may go on after their root before they are unfinished
IDLE_S: Final = 4 * 3600.0  # a root that says nothing for so long is abandoned
MAX_OPEN: Final = 5_000  # open traces kept; beyond, the longest idle are closed
MAX_BATCH: Final = 256  # traces in one turn
QUIET_S: Final = 0.02  # the program is at rest when no root run ended for so long
KEPT_S: Final = 0.5  # rest or not, what was acknowledged is committed after so long
MAX_QUEUED: Final = 2_000  # traces that may wait before their chains have to
LOCKED_S: Final = 5.0  # a lock usually passes: so long it is waited for before chains go on
RETRY_S: Final = 0.1
POLL_S: Final = 1.0  # how often a waiting thread looks whether the writer still runs

log = logging.getLogger("provkeep")


class Writer:
    """Owns the store's write side. Its thread starts when needed and ends at ``close``."""

    def __init__(self, path: Path, on_evict: Callable[[Buffer], None]) -> None:
        self.path = path
        self.opened: dict[int, Buffer] = {}  # by trace: begun and not yet closed
        self.running = False
        self._ident = -1  # of its thread
        self.created = False
        self.tally = Tally()
        self._on_evict = on_evict
        self._queue: SimpleQueue[Buffer | Flush | Settle] = SimpleQueue()
        self._keeping = Keeping(path, self.tally)
        self._start_lock = threading.RLock()  # a finalizer may record while it is held
        self._thread: threading.Thread | None = None
        self._outbox: Outbox | None = None
        self._unopened: ProvkeepError | None = None  # why there is no outbox
        self._waiting: dict[Buffer, None] = {}  # their chains go on when they are committed
        self._lingering: dict[int, float] = {}  # by trace: when its open runs are given up
        self._touched: dict[int, float] = {}
        self._looked_at = 0.0

    # -- from other threads --------------------------------------------------------------------

    def open(self) -> None:
        """Open the store now, so that what is wrong with it is said to the caller.

        Raises:
            ProvkeepError: it cannot be opened or made.
        """
        if self._outbox is None:
            opened = open_for_recording(self.path, busy_ms=BUSY_MS)
            self.created = opened.created
            self._outbox = Outbox(opened, self.tally)
            self._keeping.begin(opened.store.store_id)
            self._recover(self._outbox)

    def _recover(self, outbox: Outbox) -> None:
        """Take up what processes that died have left in their journals."""
        for buffer in self._keeping.recover(outbox):
            self.opened[buffer.tid] = buffer
        if self._keeping.waiting:
            self._tell()

    def start(self) -> None:
        """Start the thread, unless it runs."""
        with self._start_lock:
            if self.running:
                return
            self.running = True
            try:
                thread = self._thread = threading.Thread(
                    target=self._loop, name=f"provkeep-{self.path.name}", daemon=True
                )
                thread.start()
            except RuntimeError as error:  # the interpreter is shutting down
                self.running = False
                raise RecordingError(0, len(self.opened), str(error)) from error

    def submit(self, buffer: Buffer) -> None:
        """A trace has something that should be written soon."""
        self._queue.put(buffer)
        if not self.running:
            self.start()

    def keep(self, buffer: Buffer) -> bool:
        """Seal what a trace has said into the journal; False where its chain has to wait."""
        if not self._keeping.keep(buffer, self._outbox):
            return False
        self._tell()
        return True

    def _tell(self) -> None:
        if self._keeping.must_tell():
            self._queue.put(Settle(at_once=False))
        if not self.running:
            self.start()

    def settle(self) -> None:
        """Wait until what is in the journal is committed, or refused."""
        if self._keeping.unsettled and not self.is_current():
            self._settle(Settle())

    def take_up(self) -> bool:
        """See ``Recorder.take_up``."""
        if self._outbox is None or self.is_current():
            return False
        self._settle(Settle(recover=True))
        return True

    def _settle(self, request: Settle) -> None:
        self._queue.put(request)
        self.start()
        while not request.done.wait(POLL_S):
            self.start()  # unless it runs

    def leave(self) -> None:
        """In a forked child: what is open is the parent's."""
        self._keeping.leave()

    def is_current(self) -> bool:
        """Is this the writer's own thread?"""
        return self.running and self._ident == _thread.get_ident()

    def has_room(self) -> bool:
        """May a chain go on before its trace is written?"""
        return self._queue.qsize() < MAX_QUEUED

    def flush(self, timeout: float | None, *, stop: bool = False) -> None:
        """See ``Recorder.flush``."""
        request = Flush(stop=stop)
        if not self._idle(request):
            until = None if timeout is None else time.monotonic() + timeout
            self._queue.put(request)
            self.start()
            while not request.done.wait(POLL_S if timeout is None else min(POLL_S, timeout)):
                if until is not None and time.monotonic() >= until:
                    raise RecordingError(0, len(self.opened), "the writer is still busy")
                self.start()  # unless it runs
        request.tell()

    def _idle(self, request: Flush) -> bool:
        """Answer a request at once if there is nothing to write, without opening a closed store."""
        with self._start_lock:
            unsaid = self.tally.gap and self._outbox is not None
            if self.running or self.opened or not self._queue.empty() or unsaid:
                return False
            self._report([request])
            if request.stop:
                self._may_end()
            return True

    def close(self) -> None:
        """Write what there is, sign, stop, release; what cannot be written is kept.

        Raises:
            RecordingError: something was lost, or could not be written yet.
        """
        try:
            self.flush(60.0, stop=True)
        finally:
            thread = self._thread
            if thread is not None and not self.running and thread.ident != _thread.get_ident():
                thread.join(5.0)

    # -- on the writer thread --------------------------------------------------------------------

    def _loop(self) -> None:
        self._ident = _thread.get_ident()
        try:
            while self._round():
                pass
        finally:
            self.running = False

    def _round(self) -> bool:
        """Do what is queued; False when the thread may end."""
        flushes: list[Flush] = []
        settles: list[Settle] = []
        buffers: dict[Buffer, None] = {}
        outbox = self._outbox
        impatient = (
            self._waiting
            or self._keeping.waiting
            or (outbox is not None and outbox.refusal is not None)
        )
        try:
            item = self._queue.get(timeout=RETRY_S if impatient else TICK_S)
            while True:
                if isinstance(item, Flush):
                    flushes.append(item)
                elif isinstance(item, Settle):
                    settles.append(item)
                    if not item.at_once and not buffers and not flushes:
                        item = self._rest()
                        continue
                else:
                    buffers[item] = None
                if len(buffers) >= MAX_BATCH:
                    break
                item = self._queue.get_nowait()
        except Empty:
            pass
        ended = False
        try:
            outbox = self._outbox
            if outbox is not None and any(settle.recover for settle in settles):
                self._recover(outbox)
            self._turn(list(buffers), bool(flushes), stop=any(f.stop for f in flushes))
        except Exception as error:  # noqa: BLE001  # the loop must go on: told at flush
            self.tally.add(error, 0)
            self._acknowledge(StoreError(where(error)))
        finally:
            try:
                if flushes:
                    self._report(flushes)
                    ended = any(request.stop for request in flushes) and self._may_end()
            finally:
                for request in flushes:
                    request.done.set()
                for settle in settles:
                    settle.done.set()
        return not ended

    def _rest(self) -> Buffer | Flush | Settle:
        """Wait until the program is at rest, or somebody asks; then give what was said first.

        Raises:
            Empty: nothing was.
        """
        until = time.monotonic() + KEPT_S
        while True:
            kept = self._keeping.waiting
            try:
                return self._queue.get(timeout=QUIET_S)
            except Empty:
                if self._keeping.waiting == kept or time.monotonic() >= until:
                    raise

    def _report(self, flushes: list[Flush]) -> None:
        """Say what was lost, what waits, and why."""
        lost, cause = self.tally.take()
        pending, outbox = 0, self._outbox
        if outbox is not None:
            pending = outbox.pending
            problem = outbox.opened.pin_problem
            pinned = None if problem is None else StoreError(f"{self.path}: {problem}")
            cause = outbox.refusal or cause or pinned
        elif self._unopened is not None:
            pending = sum(1 for buffer in list(self.opened.values()) if buffer.ended)
            cause = self._unopened
        for request in flushes:
            request.lost, request.pending, request.cause = lost, pending, cause

    def _may_end(self) -> bool:
        """Release the store, unless something is left to do."""
        with self._start_lock:
            # First this, then the look: who adds something looks at it after adding.
            self.running = False
            outbox = self._outbox
            if not self._queue.empty() or self.opened or (outbox is not None and outbox.pending):
                self.running = True
                return False
            self._outbox = None
            self._keeping.close()
            if outbox is not None:
                try:
                    outbox.close()
                except ProvkeepError as error:
                    self.tally.add(error, 0)
            return True

    def _turn(self, buffers: list[Buffer], flush: bool, *, stop: bool) -> None:
        for buffer in buffers:
            if buffer.done is not None:
                self._waiting[buffer] = None
            if buffer.closed or buffer.tid not in self.opened:  # it said something after its end
                buffer.closed = False
                self.opened[buffer.tid] = buffer
        try:
            self.open()
            self._unopened = None
        except (ProvkeepError, OSError) as error:
            self._unopened = error if isinstance(error, ProvkeepError) else StoreError(where(error))
            self._acknowledge(self._unopened)
            self._forget_unread(self._unopened)
            return
        outbox = self._outbox
        assert outbox is not None  # noqa: S101  # just opened
        now = time.monotonic()
        outbox.heed_erasures()
        self._take_kept(outbox, now)
        for buffer in buffers:
            self._take(buffer, outbox, now)
            self._share(outbox, now)
        look = flush or now - self._looked_at >= PARTIAL_S
        if look:
            self._looked_at = now
            self._read_open(outbox, now)
        if flush or outbox.due() or any(b.durability == "strict" for b in self._waiting):
            self._write(outbox, now)
            if look and self._give_up_some(outbox, now, flush=flush, stop=stop):
                self._write(outbox, now)
        self._answer(outbox)
        if outbox.refusal is None:
            outbox.sign(now=flush)

    def _write(self, outbox: Outbox, now: float) -> None:
        while settled := outbox.write():
            for buffer in settled:
                self._advance(buffer, outbox, now)

    def _take_kept(self, outbox: Outbox, now: float) -> None:
        """Read and commit what is in the journal, some at a time, so that others get a turn."""
        for some in self._keeping.next():
            for buffer in some:
                self._take(buffer, outbox, now)
                self._share(outbox, now)
            if outbox.due():
                self._write(outbox, now)
            self._keeping.let_go()
            time.sleep(0)

    def _share(self, outbox: Outbox, now: float) -> None:
        """Commit a new document before the next trace is read, which refers to it then."""
        if outbox.ties.fresh and outbox.due():
            self._write(outbox, now)

    def _take(self, buffer: Buffer, outbox: Outbox, now: float) -> None:
        """Read a trace's queued events."""
        trace = buffer.trace
        if trace is None:
            with self._keeping.claim:
                if self._keeping.is_claimed(buffer):
                    return  # its own thread is keeping it: it comes
                trace = buffer.trace = Trace(buffer.tid, outbox.ties, buffer.names, buffer.scope)
            buffer.leave()
        trace.ties = outbox.ties  # those of a store that was closed meanwhile cannot be asked
        self._touched[buffer.tid] = now
        if buffer.done is not None:  # said before, unless a writer died
            self._waiting[buffer] = None
        if buffer.said is not None:
            framed = buffer.framed
            try:
                buffer.unpack()
            except Exception as error:  # noqa: BLE001  # counted and told; the others go on
                self.tally.add(error, framed)
        events = buffer.events
        if trace.finished and events:
            self._lingering[buffer.tid] = now + LINGER_S
        while events:
            event = events.popleft()
            try:
                trace.feed(event)
                if type(event) is ev.RunFailed:
                    trace.mark(event.run_id, event.status)
                buffer.fed += 1
            except Exception as error:  # noqa: BLE001  # a value we cannot place must not stop the others
                self.tally.add(error, 1)
        self._advance(buffer, outbox, now)

    def _advance(self, buffer: Buffer, outbox: Outbox, now: float) -> None:
        """Send off what a trace has said, and close it when it is over."""
        trace = buffer.trace
        if buffer.flight is None:
            # What the root returned was said before it ended, but maybe after we read.
            if buffer.ended and not buffer.events and not trace.finished:
                self._finish(buffer)
                if trace.open:
                    root = trace.runs.get(buffer.root) if buffer.root is not None else None
                    cancelled = root is not None and root.attrs.get("$status") == "cancelled"
                    self._lingering[buffer.tid] = now + LINGER_S * (0.25 if cancelled else 1)
            outbox.launch(buffer)
            if trace.finished and not trace.open and not trace.entries and not buffer.events:
                trace.release()
        if trace.finished and not trace.open and not trace.entries:
            self._close_trace(buffer)

    def _finish(self, buffer: Buffer) -> None:
        try:
            buffer.trace.finish()
        except Exception as error:  # noqa: BLE001  # its entries so far are still worth keeping
            self.tally.add(error, 1)

    def _close_trace(self, buffer: Buffer) -> None:
        if self.opened.get(buffer.tid) is buffer:
            del self.opened[buffer.tid]
        self._lingering.pop(buffer.tid, None)
        self._touched.pop(buffer.tid, None)
        buffer.closed = True
        if buffer.events:  # said while we closed; whoever says more now sees that it is closed
            self._queue.put(buffer)

    def _read_open(self, outbox: Outbox, now: float) -> None:
        """Read what open traces have said, so that it is written though they go on."""
        for buffer in list(self.opened.values()):
            if buffer.events or buffer.trace is None:
                self._take(buffer, outbox, now)
            elif buffer.flight is None:
                self._advance(buffer, outbox, now)

    def _give_up_some(self, outbox: Outbox, now: float, *, flush: bool, stop: bool) -> bool:
        """Close traces whose runs will not end; True when there were any."""
        crowd = len(self.opened) - MAX_OPEN
        touched = self._touched
        some = False
        idle = sorted(list(self.opened.values()), key=lambda b: touched.get(b.tid, now))  # noqa: C414  # others add to it
        for i, buffer in enumerate(idle):
            until = self._lingering.get(buffer.tid)
            given_up = until is not None and (now >= until or flush)
            abandoned = now - touched.get(buffer.tid, now) > IDLE_S or i < crowd or stop
            if not (given_up or abandoned) or buffer.trace is None:
                continue
            if buffer.flight is None and not buffer.events:
                self._give_up(buffer, outbox)
                some = True
        return some

    def _give_up(self, buffer: Buffer, outbox: Outbox) -> None:
        trace = buffer.trace
        trace.close_open(time.time_ns())
        if not trace.finished:
            self._finish(buffer)
        outbox.launch(buffer)
        if not trace.entries:
            self._close_trace(buffer)
            self._on_evict(buffer)

    # -- acknowledging ---------------------------------------------------------------------------

    def _answer(self, outbox: Outbox) -> None:
        """Let chains go on whose trace is committed, or will not be for some time."""
        self._keeping.let_go()
        refusal = outbox.refusal
        patient = (
            isinstance(refusal, StoreLockedError)
            and time.monotonic() - outbox.refused_at < LOCKED_S
        )
        for buffer in list(self._waiting):
            trace = buffer.trace
            if trace is None or (buffer.flight is None and not trace.entries):
                self._release(buffer, buffer.error)
            elif refusal is not None and not patient:
                self._release(buffer, refusal)

    def _acknowledge(self, error: ProvkeepError) -> None:
        for buffer in list(self._waiting):
            self._release(buffer, error)

    def _release(self, buffer: Buffer, error: ProvkeepError | None) -> None:
        self._waiting.pop(buffer, None)
        done, buffer.done = buffer.done, None
        buffer.error = error
        if done is not None:
            done.release()

    def _forget_unread(self, cause: ProvkeepError) -> None:
        """A store that cannot be opened keeps nothing; beyond a bound what is ended is lost."""
        while len(self.opened) > MAX_OPEN:
            tid = next((t for t, b in list(self.opened.items()) if b.ended), None)
            if tid is None:
                return
            lost = self.opened.pop(tid)
            self.tally.add(cause, lost.framed + len(lost.events))
