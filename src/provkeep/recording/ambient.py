"""Which run of another framework the caller's code is part of.

A tool of one framework may call the other, which then begins what looks like a trace of its own.
Each adapter registers how it is asked for the run that is open where the caller stands; the other
asks here. Nothing is imported for it: a framework that no adapter was loaded for is not asked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from provkeep.model.events import RunId

if TYPE_CHECKING:
    from provkeep.recording.recorder import Recorder

_asked: dict[str, Callable[[Recorder], RunId | None]] = {}


def register(framework: str, ask: Callable[[Recorder], RunId | None]) -> None:
    """Say how ``framework`` is asked for the open run that the caller's code is part of.

    Args:
        framework: a name of one's own, by which an adapter leaves itself out when it asks.
        ask: returns a run that this recorder holds open, or None; called on the caller's thread.
    """
    _asked[framework] = ask


def outer_run(framework: str, recorder: Recorder) -> RunId | None:
    """The open run of a framework other than ``framework`` that the caller's code is part of.

    None when there is none, or none that this recorder records.
    """
    for name, ask in _asked.items():
        if name != framework:
            found = ask(recorder)
            if found is not None:
                return found
    return None
