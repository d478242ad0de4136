"""What a chat engine said before, so that a later turn can say what of it came back.

A chat engine keeps its memory to itself: an earlier answer returns as a piece of a prompt. The
answers of a conversation are remembered here, and only one that stands verbatim in a prompt is
recorded as used by it.
"""

from __future__ import annotations

import uuid
import weakref
from collections import deque
from collections.abc import Iterable
from typing import Any, Final

MAX_ANSWERS: Final = 64  # earlier answers remembered of one conversation
MIN_CHARS: Final = 16  # a shorter answer stands in a prompt by chance


class Talk:
    """One conversation: its name and what was answered in it."""

    __slots__ = ("answers", "session")

    def __init__(self) -> None:
        self.session = f"chat-{uuid.uuid4()}"
        self.answers: deque[str] = deque(maxlen=MAX_ANSWERS)

    def answered(self, text: Any) -> None:
        """Remember an answer."""
        if type(text) is str and len(text) >= MIN_CHARS and text not in self.answers:
            self.answers.append(text)

    def found_in(self, texts: Iterable[str]) -> list[str]:
        """The earlier answers that stand in one of these texts."""
        places = list(texts)
        return [a for a in self.answers if any(a in place for place in places)]


class Talks:
    """The conversation of each chat engine, as long as the engine lives."""

    def __init__(self) -> None:
        self._talks: dict[int, tuple[weakref.ref[Any], Talk]] = {}

    def of(self, engine: Any) -> Talk:
        """The conversation of this engine."""
        key = id(engine)
        held = self._talks.get(key)
        if held is None or held[0]() is not engine:
            held = weakref.ref(engine, lambda _: self._talks.pop(key, None)), Talk()
            self._talks[key] = held
        return held[1]
