"""What a trace has said and the writer has not taken yet; what a handler says of its traces."""

from __future__ import annotations

import _thread
import sys
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from provkeep.errors import ProvkeepError
from provkeep.masking import Mask, Masks
from provkeep.model.events import Event
from provkeep.model.values import Memo
from provkeep.recording.frames import Frame, decode

if TYPE_CHECKING:
    from provkeep.recording.journal import Journal
    from provkeep.recording.outbox import Flight

DURABILITIES: Final = ("batch", "trace", "strict")
GROW_EVERY: Final = 8  # events that are encoded together
NEVER: Final = sys.maxsize


class Scope:
    """What a handler says of every trace it begins."""

    __slots__ = ("durability", "masks", "names", "payloads")

    def __init__(
        self,
        durability: str = "trace",
        names: dict[str, str] | None = None,
        *,
        mask: Mask | Sequence[Mask] | None = None,
        payloads: bool = True,
    ) -> None:
        if durability not in DURABILITIES:
            raise ValueError(f"durability is one of {', '.join(DURABILITIES)}, not {durability!r}")
        self.durability = durability
        self.names = names or {}
        self.masks = None if mask is None else Masks(mask)
        self.payloads = payloads  # False: metadata only

    @property
    def journaled(self) -> bool:
        """Is what was said kept in a journal? What is stored otherwise than it was said is not."""
        return self.durability == "trace" and self.masks is None and self.payloads

    def named(self, names: dict[str, str]) -> Scope:
        """The same under other names."""
        made = Scope(self.durability, names, payloads=self.payloads)
        made.masks = self.masks
        return made


class Buffer:
    """The events of one trace that the writer has not taken yet, and the writer's own notes."""

    __slots__ = (
        "closed",
        "done",
        "durability",
        "ended",
        "error",
        "events",
        "fed",
        "flight",
        "frame",
        "framed",
        "grow_at",
        "journal",
        "memo",
        "names",
        "root",
        "said",
        "scope",
        "tid",
        "trace",
    )

    def __init__(self, tid: int, root: int, scope: Scope, names: dict[str, str]) -> None:
        self.tid, self.root, self.scope = tid, root, scope
        self.events: deque[Event] = deque()
        self.names = names
        self.memo: Memo = {}
        self.durability = scope.durability
        self.ended = False  # the root has
        self.done: _thread.LockType | None = None  # released when the trace is committed
        self.error: ProvkeepError | None = None  # why it is not
        self.closed = False  # the writer looks at it no more, unless told
        self.fed = 0  # events taken since the last flight
        self.flight: Flight | None = None
        self.trace: Any = None
        self.journal: Journal | None = None  # what it said before its end is kept there
        self.frame: Frame | None = None  # the first of ``events`` again, to be kept there
        self.grow_at = GROW_EVERY if scope.journaled else NEVER  # events
        self.said: bytes | None = None  # the whole frame, in place of ``events``
        self.framed = 0  # events in it

    def grow(self) -> None:
        """Encode what was said since, so that the end of the root has less to do."""
        if self.trace is not None:  # the writer has begun to read it
            self.leave()
            return
        frame = self.frame
        if frame is None:
            frame = self.frame = Frame(self.tid, self.root, self.names)
        try:
            if self._add(frame):
                self.grow_at = frame.count + GROW_EVERY
        except Exception:  # noqa: BLE001  # it will be committed instead, while its chain waits
            self.frame, self.grow_at = None, NEVER

    def _add(self, frame: Frame) -> bool:
        """Encode the rest; False where another thread, or a finalizer's caller, is at it."""
        if not frame.held.acquire(blocking=False):
            return False
        try:
            events = self.events
            frame.add([events[i] for i in range(frame.count, len(events))])
        finally:
            frame.held.release()
        return True

    def whole(self) -> Frame | None:
        """The frame of everything said so far; None where another thread is at it.

        Raises:
            Exception: something cannot be encoded.
        """
        frame = self.frame or Frame(self.tid, self.root, self.names)
        return frame if self._add(frame) else None

    def pack(self, frame: Frame, said: bytes) -> None:
        """What stands in a frame stands in its bytes alone now.

        Python's collector looks at objects again and again, and at one object of bytes never. What
        is told apart by identity stays apart: a frame preserves it.
        """
        self.said, self.framed = said, frame.count
        for _ in range(frame.count):
            self.events.popleft()
        self.memo = {}
        self.leave()

    def leave(self) -> None:
        """No frame will be needed: its events are taken."""
        self.frame, self.grow_at = None, NEVER

    def unpack(self) -> None:
        """Have the events back in front of what came since.

        Raises:
            Exception: the bytes are not what was packed; they are let go of.
        """
        said, self.said, self.framed = self.said, None, 0
        if said is not None:
            self.events.extendleft(reversed(decode(said).events))
