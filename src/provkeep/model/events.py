"""What can happen to a run, said once and in the same words for every framework.

An adapter turns each callback into one of these; nothing behind this point knows which framework
spoke. Values inside events are snapshots (``model.values``): they no longer change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

RunId = int  # the 128 bits of the framework's UUID
NOTHING: Final = object()  # "no value passed by", which differs from "None passed by"


@dataclass(slots=True, kw_only=True)
class RunStarted:
    """A run began. ``attrs`` is everything else the framework said of it; it is sealed."""

    run_id: RunId
    parent_id: RunId | None
    at_ns: int  # UTC, nanoseconds since 1970-01-01
    kind: str
    name: str
    inputs: Any = NOTHING
    attrs: Mapping[str, Any] = field(default_factory=dict)
    slot: str | None = None  # key of a parallel branch, as the framework names it
    model: str | None = None
    provider: str | None = None
    session: str | None = None
    tools: tuple[str, ...] = ()  # names of those a model is offered
    call_id: str | None = None  # tool call id that this run answers


@dataclass(slots=True, kw_only=True)
class RunEnded:
    """A run returned normally. ``inputs`` repeats the real input where it was late (streams)."""

    run_id: RunId
    at_ns: int
    outputs: Any = NOTHING
    inputs: Any = NOTHING
    attrs: Mapping[str, Any] = field(default_factory=dict)
    usage: tuple[int | None, int | None, int | None] | None = None  # tokens: input, output, total
    finish: str | None = None
    model: str | None = None  # the model that answered, where it says so
    name: str | None = None


@dataclass(slots=True, kw_only=True)
class RunFailed:
    """A run raised, was interrupted, cancelled or blocked. ``error`` is a snapshot part."""

    run_id: RunId
    at_ns: int
    status: str
    error: Any = NOTHING
    error_key: int | None = None  # same number for the same exception object on its way up
    outputs: Any = NOTHING
    inputs: Any = NOTHING  # the real input, where it was late
    attrs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Noted:
    """Something worth keeping happened in a run: a custom event, a retry, an interrupt."""

    run_id: RunId
    at_ns: int
    name: str
    data: Any = None


@dataclass(slots=True, kw_only=True)
class TokensStreamed:
    """Arrival times and sizes of the chunks of one model call, in order."""

    run_id: RunId
    at_ns: int  # of the first chunk
    chunks: tuple[tuple[int, int], ...]  # (nanoseconds since at_ns, characters)


Event = RunStarted | RunEnded | RunFailed | Noted | TokensStreamed
