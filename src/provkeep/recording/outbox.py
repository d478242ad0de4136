"""The outbox: what traces have said, sealed and committed, or kept while the store refuses.

Used by the writer thread only. A *flight* is what one trace said since its last one; the next may
begin only when it is committed, because what follows may refer to the numbers it was given.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from provkeep.errors import ProvkeepError, StoreError
from provkeep.model import records as r
from provkeep.recording.anchoring import Anchoring
from provkeep.recording.cut import Piece, cut
from provkeep.recording.opening import Opened, advance_pin, sign
from provkeep.recording.telling import Tally, where
from provkeep.recording.ties import Ties
from provkeep.sealing.home import anchors_path
from provkeep.sealing.sealer import Sealer
from provkeep.store.base import Store, Transaction
from provkeep.store.erasing import carry_out, gone_since, newest_erasure

if TYPE_CHECKING:
    from provkeep.recording.buffer import Buffer

BUSY_MS: Final = 2_000  # how long a commit waits for another process's lock
RETRY_BUSY_MS: Final = 200  # the same once it has waited in vain
CHUNK: Final = 512  # records in one commit
MAX_BACKLOG: Final = 20_000  # records kept while the store cannot be written
MAX_BACKLOG_BYTES: Final = 256 * 2**20  # and their ciphertext
MAX_UNSEALED: Final = 2_000  # the same, of flights for which there is no data key
CHECKPOINT_S: Final = 5.0  # a signed checkpoint at least this often while records come
FIRST_RETRY_S, LAST_RETRY_S = 0.2, 5.0


class Flight:
    """What a trace said since its last flight, on its way into the log."""

    __slots__ = ("buffer", "events", "final", "left", "masked", "numbers", "pieces")

    def __init__(self, buffer: Buffer) -> None:
        self.buffer = buffer
        self.events, buffer.fed = buffer.fed, 0
        self.pieces: deque[Piece] = deque()  # not sealed yet
        masking = buffer.trace.masking
        self.masked = masking.take_counts() if masking is not None else {}
        self.left = 0  # records sealed and not committed
        self.numbers: dict[int, int] = {}  # place of a payload in the trace's drain -> its number
        self.final: list[Any] | None = None  # an entry that needs those numbers


class _ErasedMeanwhileError(Exception):
    """A key may be gone that something waiting was sealed with."""


class _Lenient:
    """A store to look things up in; what it cannot say is taken as not known."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._store.query(sql, parameters)
        except StoreError:
            return []


class Outbox:
    """Seals and commits; while the store refuses, keeps and tries again."""

    def __init__(self, opened: Opened, tally: Tally) -> None:
        self.opened, self._tally = opened, tally
        self.ties = Ties(opened.config.fingerprint_key, _Lenient(opened.store))  # type: ignore[arg-type]  # it only asks
        self._sealer = Sealer(opened.config, opened.keys)
        self._records: deque[tuple[r.Pending, Flight, list[int]]] = deque()
        self._unsealed: list[Flight] = []
        self.refusal: ProvkeepError | None = None
        self.refused_at = 0.0  # since when, monotonic
        self._retry_s = FIRST_RETRY_S
        self._retry_at = 0.0
        self._dirty = False  # records came since the last checkpoint
        self._erased = -1  # newest erase record that was heeded
        self._signed_at = 0.0
        self._anchored = False  # proofs of anchors came since then
        self._anchoring = Anchoring(opened.store.path, anchors_path(opened.store.store_id))

    @property
    def pending(self) -> int:
        """Traces that still wait to be written."""
        flights = {id(flight.buffer) for _, flight, _ in self._records}
        return len(flights | {id(flight.buffer) for flight in self._unsealed})

    def due(self) -> bool:
        """Is it time to try a store that refused?"""
        return self.refusal is None or time.monotonic() >= self._retry_at

    # -- in ------------------------------------------------------------------------------------

    def heed_erasures(self) -> None:
        """Look whether something was erased, so that what comes next does not refer to it."""
        with contextlib.suppress(ProvkeepError, OSError):  # before a commit it is asked again
            if self.opened.keys.was_written() and newest_erasure(self.opened.store) > self._erased:
                self._heed_erasures()

    def launch(self, buffer: Buffer) -> None:
        """Take what a trace has said, unless its last flight is still on its way."""
        trace = buffer.trace
        if buffer.flight is not None or not trace.entries:
            return
        flight = Flight(buffer)
        try:
            entries, payloads = trace.drain()
            pieces = cut(entries, payloads)
            if len(pieces) > 1:
                flight.final = _take_final(entries)
                if flight.final is not None:
                    pieces = cut(entries, payloads)
        except Exception as error:  # noqa: BLE001  # counted and told; the other traces go on
            self._tally.add(error, max(1, flight.events))
            buffer.error = StoreError(where(error))
            return
        flight.pieces.extend(pieces)
        buffer.flight = flight
        if self._unsealed or not self._seal(flight):
            self._unsealed.append(flight)
        else:
            self._over(flight, [])  # in case nothing of it could be sealed

    def _seal(self, flight: Flight) -> bool:
        """Seal what is left of a flight; False when the key file refuses."""
        buffer = flight.buffer
        trace = buffer.trace
        while flight.pieces:
            entries, payloads, places = flight.pieces[0]
            body: dict[str, Any] = {
                "k": "trace",
                "v": r.FORMAT,
                "t": trace.tid,
                "n": trace.count,
                "t0": str(trace.t0_ns),
                "e": entries,
            }
            if trace.count == 0:
                head = {
                    kind: r.b64(self.ties.tag(kind, trace.head[kind]))
                    for kind in ("session", "actor", "subject")
                    if kind in trace.head
                }
                if head:
                    body["h"] = head
            if trace.bare:
                body["bare"] = 1
            if flight.masked:
                body["masked"] = flight.masked
            try:
                record = self._sealer.record(
                    body, payloads, scope=trace.tid, number=trace.count, trace_keys=trace.keys
                )
            except (StoreError, OSError) as error:
                self._refuse(error)
                return False
            except Exception as error:  # noqa: BLE001  # counted and told; the others go on
                flight.pieces.popleft()
                self._lose(flight, error)
                continue
            flight.pieces.popleft()
            flight.masked = {}
            trace.count += 1
            flight.left += 1
            self._records.append((record, flight, places))
        return True

    # -- out -----------------------------------------------------------------------------------

    def write(self) -> list[Buffer]:
        """Commit what is ready; return the traces whose flight is over, written or lost."""
        settled: list[Buffer] = []
        self.ties.fresh = False
        while self._unsealed and self._seal(self._unsealed[0]):
            self._over(self._unsealed.pop(0), settled)
        chunk = CHUNK
        while self._records or self._tally.gap:
            some = [self._records.popleft() for _ in range(min(chunk, len(self._records)))]
            while chunk > 1 and self._records and self._records[0][1] is some[-1][1]:
                some.append(self._records.popleft())  # what one trace said is committed whole
            try:
                self._append(some)
            except _ErasedMeanwhileError:
                self._records.extendleft(reversed(some))
                try:
                    self._heed_erasures()
                except (ProvkeepError, OSError) as error:
                    self._refuse(error)
                    return settled
                continue
            except (ProvkeepError, OSError) as error:
                self._records.extendleft(reversed(some))
                self._refuse(error)
                return settled
            except Exception as error:  # noqa: BLE001  # a bad record must not block the others
                if len(some) > 1:
                    self._records.extendleft(reversed(some))
                    chunk = 1
                    continue
                self._lose(some[0][1], error)
            else:
                self._accepted()
                self._dirty = True
            for record, flight, places in some:
                self._learn(record, flight, places)
                flight.left -= 1
                self._over(flight, settled)
        if not self._unsealed:
            self._accepted()
        return settled

    def _append(self, some: list[tuple[r.Pending, Flight, list[int]]]) -> None:
        records = [record for record, _, _ in some]
        gap = self._tally.gap
        if gap:
            body = {"k": "gap", "v": r.FORMAT, "at": time.time_ns() // 1000, "events": gap}
            records.append(r.Pending(body, []))
        durable = any(flight.buffer.durability == "strict" for _, flight, _ in some)
        self.opened.keys.check_in_place()
        self.opened.log.append(records, durable=durable, check=self._check_erasures)
        if gap:
            self._tally.recorded(gap)

    def _check_erasures(self, tx: Transaction) -> None:
        """Nothing may be committed under a key that was erased meanwhile."""
        if tx.untouched:
            return
        newest = tx.query("SELECT max(seq) FROM erasure")[0][0]
        if newest is not None and newest > self._erased:
            raise _ErasedMeanwhileError

    def _heed_erasures(self) -> None:
        """Seal what waits under fresh keys; forget documents and names whose keys are gone."""
        store, seen = self.opened.store, self._erased
        newest = newest_erasure(store)
        self._sealer.forget(gone_since(store, seen))
        self.ties.forget()
        for record, flight, _ in self._records:
            trace = flight.buffer.trace
            self._sealer.renew(
                record, scope=trace.tid, number=record.body["n"], trace_keys=trace.keys
            )
        self._erased = newest

    def _learn(self, record: r.Pending, flight: Flight, places: list[int]) -> None:
        if record.seq < 0:
            return  # it was lost
        for i, place in enumerate(places):
            flight.numbers[place] = record.p0 + i
        for entry in record.body["e"]:
            if entry[0] == r.ARTIFACT and "fp" in entry[7]:
                self.ties.learn_document(r.unb64(entry[7]["fp"]), record.p0 + entry[6])

    @staticmethod
    def _over(flight: Flight, settled: list[Buffer]) -> None:
        """When all of a flight is committed or lost, let its trace go on."""
        if flight.left or flight.pieces:
            return
        buffer = flight.buffer
        buffer.flight = None
        trace = buffer.trace
        trace.settled(flight.numbers)
        if flight.final is not None:
            numbers = flight.numbers
            reached = [numbers.get(-p - 1, -1) if p < 0 else p for p in flight.final[3]]
            trace.entries.append([*flight.final[:3], sorted(p for p in reached if p >= 0)])
        settled.append(buffer)

    # -- when the store refuses ------------------------------------------------------------------

    def _refuse(self, error: ProvkeepError | OSError) -> None:
        """Keep what there is and try again, ever more rarely."""
        now = time.monotonic()
        if self.refusal is None:
            self.refused_at, self._retry_s = now, FIRST_RETRY_S
            self._wait_for_locks(RETRY_BUSY_MS)
        else:
            self._retry_s = min(2 * self._retry_s, LAST_RETRY_S)
        self._retry_at = now + self._retry_s
        if not isinstance(error, ProvkeepError):
            error = StoreError(f"{self.opened.store.path}: {error.strerror}; check disk and file")
        self.refusal = error
        self._bound(error)

    def _accepted(self) -> None:
        if self.refusal is not None:
            self.refusal = None
            self._wait_for_locks(BUSY_MS)

    def _wait_for_locks(self, busy_ms: int) -> None:
        with contextlib.suppress(ProvkeepError):  # it is about to be noticed anyway
            self.opened.store.wait_for_locks(busy_ms)
            self.opened.keys.wait_for_locks(busy_ms)

    def _bound(self, cause: ProvkeepError) -> None:
        """Beyond a bound the newest are lost, and counted."""
        size = sum(len(e) for record, _, _ in self._records for e in record.envelopes)
        while len(self._records) > MAX_BACKLOG or size > MAX_BACKLOG_BYTES:
            record, flight, _ = self._records.pop()
            size -= sum(map(len, record.envelopes))
            self._lose(flight, cause)
            flight.left -= 1
            self._over(flight, [])
        while len(self._unsealed) > MAX_UNSEALED:
            flight = self._unsealed.pop()
            flight.pieces.clear()
            self._lose(flight, cause)
            self._over(flight, [])

    def _lose(self, flight: Flight, error: Exception) -> None:
        self._tally.add(error, flight.events)
        flight.events = 0  # counted once, however many of its records are lost
        flight.buffer.error = (
            error if isinstance(error, ProvkeepError) else StoreError(where(error))
        )
        self.ties.forget()  # what was taken as stored may not be

    # -- the end of a turn -----------------------------------------------------------------------

    def sign(self, *, now: bool) -> None:
        """Sign a checkpoint and move the pin, if there is something new and it is time."""
        self._record_proofs()
        at = time.monotonic()
        if now:
            self._carry_out()
        new = self._dirty or self._anchored
        if not new or not (now or at - self._signed_at >= CHECKPOINT_S):
            return
        self._signed_at = at
        try:
            advance_pin(self.opened, sign(self.opened))
        except (ProvkeepError, OSError) as error:
            self._tally.add(error, 0)
            return
        if self._dirty:  # records of proofs alone are not worth another proof
            self._anchoring.offer(self.opened.log_key.public)
        self._dirty = self._anchored = False

    def _record_proofs(self) -> None:
        """Append what anchors gave since the last turn."""
        proofs = self._anchoring.take()
        if not proofs:
            return
        try:
            self.opened.log.append(proofs)
        except (ProvkeepError, OSError):  # it shows when records are written, and is told there
            self._anchoring.give_back(proofs)
            return
        self._anchored = True
        self._anchoring.recorded(proofs)

    def _carry_out(self) -> None:
        """Finish an erasure that a reader held back."""
        with contextlib.suppress(ProvkeepError, OSError):  # the next one that comes by does it
            carry_out(self.opened.store, self.opened.keys)

    def close(self) -> None:
        """Release the store; data keys that nothing used go."""
        self._anchoring.stop()
        try:
            with contextlib.suppress(ProvkeepError, OSError):  # they are harmless if they stay
                self._sealer.drop_unused()
        finally:
            self.opened.close()


def _take_final(entries: list[list[Any]]) -> list[Any] | None:
    """Take out the entry that names payloads by place, when the cut will change their places."""
    for i in range(len(entries) - 1, max(-1, len(entries) - 3), -1):
        if entries[i][0] == r.FINAL and any(p < 0 for p in entries[i][3]):
            return entries.pop(i)
    return None
