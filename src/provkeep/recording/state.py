"""Values that a trace leaves behind and a later one of the same session finds in its state.

A checkpointer restores texts and documents without saying where they came from. Within a session
they are known again by content; between sessions never.
"""

from __future__ import annotations

from typing import Any, Final

from provkeep.model.records import GIVES, TAKES
from provkeep.recording.parts import INLINE_CHARS, MAKERS, Artifact
from provkeep.recording.sheet import Sheet
from provkeep.recording.ties import Ties

MAX_VALUES: Final = 64  # of one output
_KINDS: Final = frozenset({"text", "document", "message", "tool_result"})


class State:
    """What one trace gives to, and takes from, the state of its session."""

    def __init__(self, sheet: Sheet, ties: Ties, session: str) -> None:
        self._sheet, self.ties, self._session = sheet, ties, session

    def give(self, output: Artifact | None) -> None:
        """Let a later trace take what this one's output holds and was new in it."""
        if not self._session or output is None:
            return
        new = [
            a
            for a in output.leaves()
            if a.kind in _KINDS
            and a.text
            and len(a.text) >= INLINE_CHARS
            and not a.taken
            and "ext" not in a.more
        ]
        for artifact in new[:MAX_VALUES]:
            domain = "input" if artifact.made_by is None else "value"
            tag = self.ties.give(self._tag(domain, artifact.text or ""))
            self._sheet.link(tag, artifact, GIVES)

    def take(self, artifact: Artifact, text: str, extra: dict[str, Any], *, out: bool) -> None:
        """What nothing in this trace explains may be left from an earlier one.

        What a person said before counts only in restored state: whoever says it again, says it.
        """
        if not self._session or artifact.causes or len(text) < INLINE_CHARS:
            return
        made_by = artifact.made_by
        if made_by is not None and (made_by.kind in MAKERS or (out and not made_by.children)):
            return
        for domain in ("value",) if made_by is None else ("value", "input"):
            tag = self._tag(domain, text)
            if self.ties.given(tag):
                extra["ext"] = self._sheet.link(tag, artifact, TAKES)
                if artifact.kind in ("message", "tool_result"):
                    extra["c"] = 1  # by its content, not by its id
                artifact.exact = True
                return

    def _tag(self, domain: str, text: str) -> bytes:
        return self.ties.tag(domain, f"{self._session}\x00{text}")
