"""What a trace has said and the writer has not taken yet; what a handler says of its traces."""

from __future__ import annotations

import _thread
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from provkeep.errors import ProvkeepError
from provkeep.masking import Mask, Masks
from provkeep.model.events import Event
from provkeep.model.values import Memo
from provkeep.recording.frames import decode

if TYPE_CHECKING:
    from provkeep.recording.journal import Journal
    from provkeep.recording.outbox import Flight

DURABILITIES: Final = ("batch", "trace", "strict")


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
        "framed",
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
        self.said: bytes | None = None  # and here, as its frame says it, in place of objects
        self.framed = 0  # events in it

    def pack(self, said: bytes, events: int) -> None:
        """The first so many events stand in these bytes now.

        What waits is kept as bytes because Python's collector looks at objects again and again, and
        at one object of bytes never. They are told apart by identity, which a frame preserves.
        """
        self.said, self.framed = said, events
        for _ in range(events):
            self.events.popleft()
        self.memo = {}

    def unpack(self) -> None:
        """Have the events back in front of what came since.

        Raises:
            Exception: the bytes are not what was packed; they are let go of.
        """
        said, self.said, self.framed = self.said, None, 0
        if said is not None:
            self.events.extendleft(reversed(decode(said).events))
