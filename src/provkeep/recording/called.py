"""Names of called tools: the program's own, or what a model made up."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from provkeep.recording.clear import clean
from provkeep.recording.parts import Artifact
from provkeep.recording.sheet import Sheet

MAX_UNNAMED: Final = 1_000  # names of tools that were called and are not known yet


class CalledTools:
    """The tools of one trace: a name stands in the clear only if there is such a tool."""

    def __init__(self, sheet: Sheet) -> None:
        self._sheet = sheet
        self._tools: set[str] = set()
        self._unnamed: dict[str, list[Artifact]] = {}  # calls of others, by the name they say

    def release(self) -> None:
        """No tool will be offered any more that gives one of these its name."""
        self._unnamed.clear()

    def offered(self, names: Iterable[str]) -> None:
        """A model can call these, or they ran; calls that are not in a record yet get a name."""
        for name in names:
            if name in self._tools:
                continue
            self._tools.add(name)
            for call in self._unnamed.pop(name, ()):
                if call.number >= self._sheet.drained:
                    call.more["ty"] = clean(name)

    def name(self, call: Artifact, name: Any, extra: dict[str, Any]) -> None:
        """Put a called tool's name into the options of its entry, if there is such a tool."""
        if type(name) is not str:
            return
        if name in self._tools:
            extra["ty"] = clean(name)
        elif len(self._unnamed) < MAX_UNNAMED:
            self._unnamed.setdefault(name, []).append(call)
