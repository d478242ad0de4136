"""What the reader answers with: small frozen values with a readable repr."""

from __future__ import annotations

import datetime as dt
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, overload

PAGE: Final = 200  # summaries read at a time


def clock(at_us: int | None) -> str:
    """Microseconds since 1970 as UTC, to the second."""
    if at_us is None:
        return "-"
    return dt.datetime.fromtimestamp(at_us / 1e6, dt.UTC).strftime("%Y-%m-%d %H:%M:%S")


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSummary:
    """One trace: a root run and everything under it. Times are UTC microseconds since 1970."""

    id: str
    name: str
    kind: str
    status: str  # "open" while the root has not ended
    started_us: int
    ended_us: int | None
    runs: int
    errors: int
    actor: str | None = None
    session: str | None = None
    subject: str | None = None

    def __repr__(self) -> str:
        return f"<Trace {self.id[:12]} {self.name!r} {self.status} {clock(self.started_us)}>"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


class Summaries(Sequence[TraceSummary]):
    """Traces in order of time; each is looked up, and its names opened, when it is asked for.

    A page at a time is kept. The trail that it came from has to be open.

    Args:
        numbers: of the traces in the index.
        load: the summaries of a few of them, in order.
    """

    __slots__ = ("_at", "_load", "_numbers", "_page")

    def __init__(
        self, numbers: Iterable[int], load: Callable[[Sequence[int]], list[TraceSummary]]
    ) -> None:
        self._numbers, self._load = array("q", numbers), load
        self._at, self._page = -1, list[TraceSummary]()

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, at: int) -> TraceSummary: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[TraceSummary]: ...
    def __getitem__(self, at: int | slice) -> TraceSummary | Sequence[TraceSummary]:
        """One of them; or, of a stretch, again those that are read when asked for."""
        if isinstance(at, slice):
            return Summaries(self._numbers[at], self._load)
        place = range(len(self._numbers))[at]
        if place // PAGE != self._at:
            begin = place - place % PAGE
            self._page = self._load(self._numbers[begin : begin + PAGE])
            self._at = place // PAGE
        return self._page[place % PAGE]

    def __iter__(self) -> Iterator[TraceSummary]:
        for begin in range(0, len(self._numbers), PAGE):
            yield from self._load(self._numbers[begin : begin + PAGE])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"<{len(self)} traces>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """One reading of payloads. ``reach`` is ``direct`` when the source's own text was opened."""

    record: int
    at_us: int
    actor: str
    purpose: str | None
    what: str
    trace: str | None
    artifacts: tuple[str, ...]
    reach: str | None = None
    why: str | None = None  # of a refusal (what is "refused"), one word
    grants: tuple[str, ...] = ()  # through which it was opened
    key: str | None = None  # the reader's public key (Ed25519, base64url)
    signed: bool = False  # by that key

    def __repr__(self) -> str:
        refused = f" refused ({self.why})" if self.why else ""
        return (
            f"<Access {self.record} {clock(self.at_us)} {self.actor!r}{refused}:"
            f" {self.purpose or '-'}>"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Impact:
    """What a source reached.

    ``reached`` are traces whose output it reached, ``later`` those that took something from them
    (a later turn of the conversation), ``retrieved`` those that retrieved it and dropped it. How
    many there are is known; what each is called is read when it is asked for, while the trail is
    open.
    """

    source: str
    reached: Sequence[TraceSummary]
    later: Sequence[TraceSummary]
    retrieved: Sequence[TraceSummary]
    outputs: tuple[str, ...]  # artifact ids of the outputs of ``reached``

    def __len__(self) -> int:
        return len(self.reached)

    def __repr__(self) -> str:
        return (
            f"<Impact of {self.source!r}: reached {len(self.reached)} outputs,"
            f" {len(self.later)} later traces, retrieved in {len(self.retrieved)} more>"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        traces = {
            how: [trace.to_dict() for trace in getattr(self, how)]
            for how in ("reached", "later", "retrieved")
        }
        return {"source": self.source, **traces, "outputs": self.outputs}


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How two traces differ."""

    a: TraceSummary
    b: TraceSummary
    only_a: tuple[str, ...]  # sources
    only_b: tuple[str, ...]
    both: tuple[str, ...]
    steps_only_a: tuple[str, ...]  # names of runs, with how often more
    steps_only_b: tuple[str, ...]
    models: tuple[tuple[str, ...], tuple[str, ...]]
    same_answer: bool | None  # None when the answers were not opened

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)
