"""Which run a lazy stream belongs to, found without touching the stream.

A generator that a call returned runs later, wherever somebody reads it: in another task, another
thread, after the call's span has ended. What begins inside it then has no parent. The generator's
own frame tells: it stands on the stack of whatever it calls. Frames are compared by identity, and
generators are held weakly, so nothing of the user's is replaced, consumed or kept alive.
"""

from __future__ import annotations

import sys
import weakref
from collections import deque
from collections.abc import Callable
from types import AsyncGeneratorType, FrameType, GeneratorType
from typing import Any, Final

from provkeep.llamaindex.snapshots import STREAMS
from provkeep.llamaindex.spans import Span

_FIELDS: Final = ("response_gen", "chat_stream", "achat_stream")


def stream_in(result: Any) -> Any:
    """The generator that a call returned, bare or in a response object; else None."""
    if isinstance(result, GeneratorType | AsyncGeneratorType):
        return result
    if isinstance(result, STREAMS):
        for name in _FIELDS:
            held = result.__dict__.get(name)
            if isinstance(held, GeneratorType | AsyncGeneratorType):
                return held
    return None


class Streams:
    """The streams that nobody has read to their end yet."""

    def __init__(self) -> None:
        self._held: dict[int, tuple[weakref.ref[Any], Span]] = {}  # by id of the frame
        self.gone: deque[Span] = deque()  # runs whose stream was thrown away

    def __bool__(self) -> bool:
        return bool(self._held)

    def watch(self, stream: Any, span: Span) -> None:
        """Remember whose stream this is; the first to return it is the one whose code it is."""
        frame = _frame(stream)
        key = id(frame)
        known = self._held.get(key)
        if frame is None or (known is not None and known[0]() is stream):
            if frame is None or known is None or known[1] is not span:
                weakref.finalize(stream, self.gone.append, span).atexit = False
            return
        self._held[key] = weakref.ref(stream, self._forget(key)), span
        weakref.finalize(stream, self.gone.append, span).atexit = False

    def _forget(self, key: int) -> Callable[[Any], None]:
        held = self._held

        def forget(ref: Any) -> None:
            entry = held.get(key)
            if entry is not None and entry[0] is ref:
                held.pop(key, None)

        return forget

    def owner(self) -> Span | None:
        """The run whose stream is being read by the caller, the innermost one."""
        here: FrameType | None = sys._getframe(1)
        held = self._held
        while here is not None:
            entry = held.get(id(here))
            if entry is not None and _frame(entry[0]()) is here:
                return entry[1]
            here = here.f_back
        return None


def _frame(stream: Any) -> Any:
    return getattr(stream, "gi_frame", None) or getattr(stream, "ag_frame", None)
