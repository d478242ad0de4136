"""Submitting to anchors on a thread of its own, beside the writer.

The writer says that there is a new checkpoint and takes proofs that have come; neither waits. An
anchor that hangs holds up this thread and nothing else. Its thread reads the store through a
connection of its own, and the proofs go into the log through the writer, which alone appends.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

from provkeep.errors import ProvkeepError
from provkeep.model.records import Pending
from provkeep.recording.telling import where
from provkeep.store.sqlite import SqliteStore
from provkeep.tlog.anchorbook import read_book
from provkeep.tlog.checkpoint import LogPublicKey
from provkeep.tlog.heads import View
from provkeep.tlog.rounds import offer_all, unrecorded

SHORTEST_S: Final = 1.0  # between two rounds, whatever the configuration says

log = logging.getLogger("provkeep")


class Anchoring:
    """Keeps the anchors of one store up to date while it is recorded into.

    Args:
        store: the database.
        book: the file that names the anchors; there may be none.
    """

    def __init__(self, store: Path, book: Path) -> None:
        self._store, self._book = store, book
        self._public: LogPublicKey | None = None  # in force when the newest checkpoint was signed
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._every_s = SHORTEST_S
        self._due = False  # there is a checkpoint that no round has seen
        self._thread: threading.Thread | None = None
        self._proofs: deque[Pending] = deque()  # for the writer to record
        self._done: deque[Pending] = deque()  # recorded, and not yet remembered as such
        self._given: set[tuple[str, str]] = set()  # anchor and note of what the writer was given

    def offer(self, public: LogPublicKey) -> None:
        """There is a new checkpoint, signed with this key. Returns at once."""
        if not self._book.exists():
            return
        self._public = public
        self._due = True
        self._wake.set()
        if self._thread is None:
            name = f"provkeep-anchors-{self._store.name}"
            thread = threading.Thread(target=self._loop, name=name, daemon=True)
            with contextlib.suppress(RuntimeError):  # the interpreter is shutting down
                thread.start()
                self._thread = thread

    def take(self) -> list[Pending]:
        """Return the proofs that have come since the last call, as records."""
        some = []
        while self._proofs:
            some.append(self._proofs.popleft())
        return some

    def give_back(self, proofs: list[Pending]) -> None:
        """These could not be recorded now."""
        self._proofs.extendleft(reversed(proofs))

    def recorded(self, proofs: list[Pending]) -> None:
        """These stand in the log."""
        self._done.extend(proofs)
        self._wake.set()

    def stop(self) -> None:
        """Nothing more will be taken. A round that is due is still done, and nobody waits for it.

        Proofs that come now are kept in the configuration; the next recorder records them.
        """
        self._stopped.set()
        self._wake.set()

    def _loop(self) -> None:
        rest_until = 0.0
        while True:
            self._wake.wait()
            self._wake.clear()
            self._guarded(self._settle)
            stopped = self._stopped.is_set()
            if self._due and (stopped or time.monotonic() >= rest_until):
                self._due = False
                self._guarded(self._round)
                rest_until = time.monotonic() + self._every_s
            if stopped:
                return
            if self._due:  # it rests, and is woken by the end
                self._stopped.wait(max(0.0, rest_until - time.monotonic()))
                self._wake.set()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except (ProvkeepError, OSError) as error:
            log.debug("provkeep: anchors: %s", where(error))
        except Exception as error:  # noqa: BLE001  # a thread that dies would anchor no more
            log.warning("provkeep: anchors: %s", where(error))

    def _settle(self) -> None:
        """Remember which proofs stand in the log."""
        if not self._done:
            return
        book = read_book(self._book)
        states = book.states()
        while self._done:
            body = self._done.popleft().body
            state = states.get(body["anchor"])
            if state is not None and state.proof is not None and state.proof.note == body["note"]:
                book.remember(body["anchor"], recorded=True)

    def _round(self) -> None:
        """Offer the newest head to every anchor, and hand on what they gave."""
        book = read_book(self._book)
        self._every_s = max(SHORTEST_S, book.every_s)
        public = self._public
        if not book.anchors or public is None:
            return
        with contextlib.closing(SqliteStore(self._store, read_only=True)) as store:
            offer_all(
                book,
                View(store.query),
                public,
                now_us=lambda: time.time_ns() // 1000,
                pause=self._stopped.wait,
            )
        for name, record in unrecorded(book).items():
            known = (name, record.body["note"])
            if known not in self._given:
                self._given.add(known)
                self._proofs.append(record)
