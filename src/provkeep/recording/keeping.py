"""What is acknowledged before it is committed: in the journal, and written when there is time."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from provkeep.recording.journal import Journal, begin
from provkeep.recording.outbox import Outbox
from provkeep.recording.recovery import recovered
from provkeep.recording.telling import Tally

if TYPE_CHECKING:
    from provkeep.recording.buffer import Buffer

MAX_KEPT: Final = 512  # traces in the journal before chains have to wait again
CHECKED_S: Final = 0.05  # the files are looked at so often before something is kept
AT_ONCE: Final = (
    8  # of those, written in one commit; more would be long-lived to Python's collector
)


class Keeping:
    """Traces in journals: this process's own, and those that processes that died have left."""

    def __init__(self, path: Path, tally: Tally) -> None:
        self._path, self._tally = path, tally
        self._journal: Journal | None = None
        # Held to decide who reads a trace first, its own thread or the writer; a finalizer may
        # record meanwhile, on the same thread.
        self.claim = threading.RLock()
        self._later: deque[Buffer] = deque()  # to be written when there is time
        self._read: dict[Buffer, None] = {}  # read, and not committed yet
        self._check_at = 0.0  # when to look again whether the files are there
        self._told = False  # the writer knows that there is something in ``_later``

    @property
    def waiting(self) -> int:
        """Traces that the writer has not read yet."""
        return len(self._later)

    @property
    def unsettled(self) -> bool:
        """Is there anything that is not committed?"""
        return bool(self._later or self._read)

    # -- any thread ----------------------------------------------------------------------------

    def keep(self, buffer: Buffer, outbox: Outbox | None) -> bool:
        """Seal what a trace has said into the journal.

        Returns:
            False where it cannot be kept so, and its chain has to wait: there is no journal or it
            is full, the store refuses, the writer has begun to read the trace, or what is stored of
            it is not what it said.
        """
        journal, scope = self._journal, buffer.scope
        if journal is None or outbox is None or outbox.refusal is not None:
            return False
        if not scope.journaled or journal.kept >= MAX_KEPT:
            return False
        with self.claim:
            if buffer.trace is not None:
                return False
            buffer.journal = journal
        try:
            self._check(outbox)
            frame = buffer.whole()
            said = b"" if frame is None else frame.data()
            kept = frame is not None and journal.keep(said)
            if frame is not None and kept:
                buffer.pack(frame, said)
        except Exception:  # noqa: BLE001  # the writer meets it, too, and tells
            kept = False
        if not kept:
            with self.claim:
                buffer.journal = None
            return False
        buffer.ended = True
        self._later.append(buffer)
        return True

    def _check(self, outbox: Outbox) -> None:
        """The files were not replaced or deleted, as of a moment ago.

        Raises:
            StoreError: they were.
        """
        now = time.monotonic()
        if now >= self._check_at:
            outbox.opened.store.check_whole()
            outbox.opened.keys.check_in_place()
            self._check_at = now + CHECKED_S

    def must_tell(self) -> bool:
        """Is the writer to be told? Once for all that comes until it looks."""
        with self.claim:
            told, self._told = self._told, True
        return not told

    def leave(self) -> None:
        """In a forked child: what is open is the parent's."""
        if self._journal is not None:
            self._journal.leave()

    # -- the writer ----------------------------------------------------------------------------

    def begin(self, store_id: bytes) -> None:
        """Begin a journal, where there can be one."""
        self._journal = begin(self._path, store_id)

    def recover(self, outbox: Outbox) -> list[Buffer]:
        """Take up what processes that died have left."""
        found = recovered(self._path, outbox.opened.store, self._journal, self._tally)
        self._later.extend(found)
        return found

    def is_claimed(self, buffer: Buffer) -> bool:
        """Is its own thread keeping this trace, so that it comes by ``next``?"""
        return buffer.journal is not None and buffer not in self._read

    def next(self) -> Iterator[list[Buffer]]:
        """What is to be read now, some at a time, oldest first.

        What comes meanwhile tells again and waits its turn: read as it comes, each trace would have
        a commit of its own.
        """
        self._told = False
        left = len(self._later)
        while left:
            some = [self._later.popleft() for _ in range(min(AT_ONCE, left))]
            left -= len(some)
            self._read.update(dict.fromkeys(some))
            yield some

    def let_go(self) -> None:
        """What is committed, or lost and told, needs its journal no more."""
        for buffer in list(self._read):
            if buffer.flight is None and not buffer.trace.entries:
                del self._read[buffer]
                journal, buffer.journal = buffer.journal, None
                if journal is not None:
                    journal.let_go()
                    if journal is not self._journal and not journal.kept:
                        journal.close()

    def close(self) -> None:
        """Release the journal, when all is committed."""
        journal, self._journal = self._journal, None
        if journal is not None:
            journal.close()
