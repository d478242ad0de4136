"""The writer: one thread per process and store, which turns traces into committed records."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final

from provkeep.errors import ProvkeepError, RecordingError, StoreError
from provkeep.model import events as ev
from provkeep.model import records as r
from provkeep.recording.cut import cut
from provkeep.recording.opening import Opened, advance_pin, open_for_recording
from provkeep.recording.ties import Ties
from provkeep.recording.trace import Trace
from provkeep.sealing.sealer import Sealer

if TYPE_CHECKING:
    from provkeep.recording.recorder import Buffer

TICK_S: Final = 0.5  # how often open traces are looked at
PARTIAL_S: Final = 1.0  # an open trace is written this often
CHECKPOINT_S: Final = 5.0  # a signed checkpoint at least this often while records come
LINGER_S: Final = 2.0  # how long runs may end after their root before they are unfinished
IDLE_S: Final = 900.0  # a root that says nothing for so long is abandoned
MAX_OPEN: Final = 5_000  # open traces kept; beyond, the longest idle are closed
MAX_BATCH: Final = 256  # traces in one commit
MAX_BACKLOG: Final = 20_000  # records kept while the store cannot be written
RETRY_S: Final = 0.2

log = logging.getLogger("provkeep")


class _Flush:
    """A request to commit and sign everything queued before it."""

    def __init__(self, *, stop: bool = False) -> None:
        self.done = threading.Event()
        self.stop = stop


class _Batch:
    """Records that go into one transaction, and what waits for them."""

    def __init__(self) -> None:
        self.records: list[tuple[r.Pending, Trace | None, list[int]]] = []
        self.waiting: list[Buffer] = []
        self.events = 0


class Writer:
    """Owns the store's write side."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.opened: dict[int, Buffer] = {}  # by trace: begun and not yet closed
        self.running = False
        self.created = False
        self._queue: SimpleQueue[Buffer | _Flush] = SimpleQueue()
        self._store: Opened | None = None
        self._thread: threading.Thread | None = None
        self._lingering: dict[int, float] = {}  # by trace: when its open runs are given up
        self._touched: dict[int, float] = {}
        self._backlog = _Batch()
        self._cause: BaseException | None = None
        self._lost = 0
        self._unwritten_gap = 0
        self._signed_at = 0.0
        self._dirty = False
        self.on_evict: Any = None

    # -- from other threads --------------------------------------------------------------------

    def open(self) -> None:
        """Open the store now, so that what is wrong with it is said to the caller."""
        if self._store is None:
            store = self._store = open_for_recording(self.path)
            self.created = store.created
            self._ties = Ties(store.config.fingerprint_key, store.store)
            self._sealer = Sealer(store.config, store.keys)

    def start(self) -> None:
        """Start the thread, unless it runs."""
        if not self.running:
            self.running = True
            self._thread = threading.Thread(
                target=self._loop, name=f"provkeep-{self.path.name}", daemon=True
            )
            self._thread.start()

    def submit(self, buffer: Buffer) -> None:
        """A trace has something that should be written soon."""
        self._queue.put(buffer)

    def failed(self, error: BaseException, lost: int) -> None:
        """Remember a failure for the next flush."""
        self._cause = error
        self._lost += lost
        self._unwritten_gap += lost

    def flush(self, timeout: float | None, *, stop: bool = False) -> None:
        """See ``Recorder.flush``."""
        request = _Flush(stop=stop)
        self._queue.put(request)
        if not request.done.wait(timeout):
            raise RecordingError(self._lost, len(self._backlog.records), "the writer is still busy")
        cause, lost = self._cause, self._lost
        pending = len(self._backlog.records)
        if cause is not None or pending:
            self._cause, self._lost = None, 0
            text = str(cause) if isinstance(cause, ProvkeepError) else type(cause).__name__
            raise RecordingError(lost, pending, text) from cause

    def close(self) -> None:
        """Write what there is, sign, stop, release."""
        try:
            if self.running or self.opened or not self._queue.empty():
                self.start()
                self.flush(60.0, stop=True)
        finally:
            self.running = False
            if self._thread is not None and self._thread is not threading.current_thread():
                self._thread.join(5.0)
            store, self._store = self._store, None
            if store is not None:
                try:
                    self._sealer.drop_unused()
                finally:
                    store.close()

    def abandon(self) -> None:
        """After fork, in the child."""
        store, self._store = self._store, None
        self.running = False
        if store is not None:
            store.store.abandon()
            store.keys.abandon()

    # -- on the writer thread --------------------------------------------------------------------

    def _loop(self) -> None:
        while True:
            timeout = RETRY_S if self._backlog.records else TICK_S
            items: list[Buffer | _Flush] = []
            try:
                items.append(self._queue.get(timeout=timeout))
                while len(items) < MAX_BATCH:
                    items.append(self._queue.get_nowait())
            except Empty:
                pass
            flushes = [i for i in items if isinstance(i, _Flush)]
            try:
                self._turn([i for i in items if not isinstance(i, _Flush)], flushes)
            except Exception as error:  # noqa: BLE001  # the loop must go on: told at flush
                log.debug("provkeep: writer failed", exc_info=True)
                self.failed(error, 0)
            for request in flushes:
                request.done.set()
            if any(request.stop for request in flushes):
                return

    def _turn(self, buffers: list[Buffer], flushes: list[_Flush]) -> None:
        try:
            self.open()
        except (ProvkeepError, OSError) as error:
            for buffer in buffers:
                self._fail_waiting(buffer, error)
            self._cause = error
            return
        batch, self._backlog = self._backlog, _Batch()
        now = time.monotonic()
        stop = any(request.stop for request in flushes)
        for buffer in dict.fromkeys(buffers):
            self._take(buffer, batch, now)
        if flushes or now - self._last_look() >= PARTIAL_S:
            self._look(batch, now, everything=bool(flushes), stop=stop)
        self._commit(batch)
        due = now - self._signed_at >= CHECKPOINT_S
        if self._dirty and not self._backlog.records and (flushes or due):
            self._sign(now)

    _looked_at = 0.0

    def _last_look(self) -> float:
        return self._looked_at

    def _take(self, buffer: Buffer, batch: _Batch, now: float) -> None:
        """Turn a trace's queued events into records."""
        trace = buffer.trace
        if trace is None:
            if buffer.tid not in self.opened:
                return
            trace = buffer.trace = Trace(buffer.tid, self._ties, buffer.names)
        self._touched[buffer.tid] = now
        events = buffer.events
        while events:
            event = events.popleft()
            batch.events += 1
            try:
                trace.feed(event)
                if type(event) is ev.RunFailed:
                    trace.mark(event.run_id, event.status)
            except Exception as error:  # noqa: BLE001  # a value we cannot place must not stop the others
                log.debug("provkeep: event not recorded", exc_info=True)
                self.failed(error, 1)
        if buffer.ended and not trace.finished and (len(trace.entries) > 200):
            self._drain(trace, batch)
            self._commit_now(batch)
        if buffer.ended and not trace.finished:
            trace.finish()
            root = trace.runs.get(buffer.root) if buffer.root is not None else None
            cancelled = root is not None and root.attrs.get("$status") == "cancelled"
            if trace.open:
                self._lingering[buffer.tid] = now + (LINGER_S / 4 if cancelled else LINGER_S)
        self._drain(trace, batch)
        if buffer.done is not None:
            batch.waiting.append(buffer)
        if buffer.ended and not trace.open:
            self._close_trace(buffer)

    def _close_trace(self, buffer: Buffer) -> None:
        self.opened.pop(buffer.tid, None)
        self._lingering.pop(buffer.tid, None)
        self._touched.pop(buffer.tid, None)

    def _drain(self, trace: Trace, batch: _Batch) -> None:
        entries, payloads = trace.drain()
        if not entries:
            return
        for some, sealed, places in cut(entries, payloads):
            body: dict[str, Any] = {
                "k": "trace",
                "v": r.FORMAT,
                "t": trace.tid,
                "n": trace.count,
                "t0": str(trace.t0_ns),
                "e": some,
            }
            if trace.count == 0:
                head = {
                    kind: r.b64(self._ties.tag(kind, trace.head[kind]))
                    for kind in ("session", "actor", "subject")
                    if kind in trace.head
                }
                if head:
                    body["h"] = head
            record = self._sealer.record(
                body, sealed, scope=trace.tid, number=trace.count, trace_keys=trace.keys
            )
            trace.count += 1
            batch.records.append((record, trace, places))

    def _look(self, batch: _Batch, now: float, *, everything: bool, stop: bool) -> None:
        """Write what open traces have said, and give up on what will not end."""
        self._looked_at = now
        opened = list(self.opened.values())
        for buffer in opened:
            if buffer.events:
                self._take(buffer, batch, now)
        crowd = len(self.opened) - MAX_OPEN
        idle = sorted(self.opened.values(), key=lambda b: self._touched.get(b.tid, now))
        for i, buffer in enumerate(idle):
            until = self._lingering.get(buffer.tid)
            given_up = until is not None and (now >= until or everything)
            abandoned = now - self._touched.get(buffer.tid, now) > IDLE_S or i < crowd or stop
            trace = buffer.trace
            if trace is not None and (given_up or (abandoned and not buffer.events)):
                trace.close_open(time.time_ns())
                if not trace.finished:
                    trace.finish()
                self._drain(trace, batch)
                self._close_trace(buffer)
                if self.on_evict is not None:
                    self.on_evict(buffer)

    def _commit_now(self, batch: _Batch) -> None:
        """Commit a long trace's records so far, so that its last record can name them."""
        waiting, batch.waiting = batch.waiting, []
        self._commit(batch)
        batch.records, batch.events = self._backlog.records, 0
        self._backlog = _Batch()
        batch.waiting = waiting

    def _commit(self, batch: _Batch) -> None:
        store = self._store
        assert store is not None  # noqa: S101  # _turn opened it
        if not batch.records:
            self._acknowledge(batch, None)
            return
        if self._unwritten_gap:
            body = {"k": "gap", "v": r.FORMAT, "at": time.time_ns() // 1000}
            body["events"] = self._unwritten_gap
            batch.records.append((r.Pending(body, []), None, []))
        strict = any(b.durability == "strict" for b in batch.waiting)
        try:
            store.log.append([record for record, _, _ in batch.records], durable=strict)
        except (StoreError, OSError) as error:
            batch.records = [row for row in batch.records if row[1] is not None]
            self._keep(batch, error)
            return
        except Exception as error:  # noqa: BLE001  # a record that cannot be written must not block the others
            self._one_by_one(batch, error)
        else:
            self._unwritten_gap = 0
        self._dirty = True
        for record, trace, places in batch.records:
            if trace is not None:
                numbers = {place: record.p0 + i for i, place in enumerate(places)}
                trace.settled(numbers)
                for entry in record.body["e"]:
                    if entry[0] == r.ARTIFACT and "fp" in entry[7]:
                        mark = r.unb64(entry[7]["fp"])
                        self._ties.learn_document(mark, record.p0 + entry[6])
        self._acknowledge(batch, None)
        batch.records, batch.waiting, batch.events = [], [], 0

    def _one_by_one(self, batch: _Batch, cause: Exception) -> None:
        store = self._store
        assert store is not None  # noqa: S101  # _turn opened it
        written = []
        for row in batch.records:
            try:
                store.log.append([row[0]])
                written.append(row)
            except Exception as error:  # noqa: BLE001  # counted and told
                log.debug("provkeep: record not written", exc_info=True)
                self.failed(error, len(row[0].body.get("e", ())))
        batch.records = written
        del cause

    def _keep(self, batch: _Batch, error: Exception) -> None:
        """The store refused: keep the records and try again; beyond a bound, count the loss."""
        self._cause = error
        self._ties.forget()
        kept = batch.records[:MAX_BACKLOG]
        for record, _, _ in batch.records[MAX_BACKLOG:]:
            self.failed(error, len(record.body.get("e", ())))
        self._acknowledge(batch, error)
        self._backlog = _Batch()
        self._backlog.records = kept

    def _acknowledge(self, batch: _Batch, error: Exception | None) -> None:
        for buffer in batch.waiting:
            self._fail_waiting(buffer, error)
        batch.waiting = []

    @staticmethod
    def _fail_waiting(buffer: Buffer, error: Exception | None) -> None:
        done, buffer.done = buffer.done, None
        if error is not None:
            buffer.error = error if isinstance(error, ProvkeepError) else StoreError(str(error))
        if done is not None:
            done.release()

    def _sign(self, now: float) -> None:
        store = self._store
        assert store is not None  # noqa: S101  # _turn opened it
        try:
            advance_pin(store, store.log.checkpoint(store.log_key))
            self._dirty = False
        except (ProvkeepError, OSError) as error:
            self._cause = error
        self._signed_at = now
        if store.pin_problem is not None:
            self._cause = StoreError(f"{self.path}: {store.pin_problem}")
