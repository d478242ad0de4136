"""Graphs that span traces: a conversation's turns, an interrupt and its resume, a cached answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from provkeep.model import records as r
from provkeep.reading.erased import erased_artifacts
from provkeep.reading.joined import Crossing, Joined
from provkeep.reading.lookup import query_in
from provkeep.reading.traces import Item, Names, Trace, flat, load_trace
from provkeep.store.base import Store
from provkeep.store.erasing import newest_erasure

MAX_TRACES: Final = 2_000  # traces joined into one graph
KEPT: Final = 64  # traces kept loaded
KEPT_SOURCES: Final = 20_000  # documents whose source is remembered
_SOURCES: Final = (
    "SELECT p.id, s.tag, s.payload FROM payload p JOIN source s ON s.id = p.source"
    " WHERE p.id IN ({marks})"
)

# Given traces, and for the tags of sources the payloads that name them: what tags stand for.
Naming = Callable[[list[Trace], dict[str, int]], Names]


def unnamed(_: list[Trace], __: dict[str, int]) -> Names:
    """For who asks for no names: none is opened."""
    return {}


class Paths:
    """Loads traces of one store and the links between them.

    Args:
        store: the store.
        kept: how many finished traces are kept loaded.
    """

    def __init__(self, store: Store, *, kept: int = KEPT) -> None:
        self._store, self._most = store, kept
        self._kept: dict[str, Trace] = {}
        self._sources: dict[int, tuple[str, int]] = {}  # by payload: tag, payload that names it
        self._erasure = -1  # record of the newest one that these know of

    def trace(self, tid: str) -> Trace:
        """One trace; a finished one is loaded once."""
        found = self._kept.get(tid)
        if found is None:
            found = load_trace(self._store, bytes.fromhex(tid))
            if self._most and (found.output >= 0 or found.answer >= 0):
                self._kept[tid] = found
                if len(self._kept) > self._most:
                    self._kept.pop(next(iter(self._kept)))
        return found

    def forget(self) -> None:
        """Load everything anew."""
        self._kept.clear()

    def given(self, tag: str, before: str) -> tuple[Trace, int] | None:
        """The artifact that an earlier trace gave under a link tag, the latest if several did."""
        found = self.giver(tag, before)
        return None if found is None else (self.trace(found[0]), found[1])

    def giver(self, tag: str, before: str) -> tuple[str, int] | None:
        """As :meth:`given`: the id of the trace and the artifact."""
        rows = self._store.query(
            "SELECT t.tid, l.artifact FROM link l JOIN trace t ON t.id = l.trace"
            " WHERE l.tag = ? AND l.role = 0 AND t.tid <> ?"
            " AND t.id < coalesce((SELECT id FROM trace WHERE tid = ?), 0)"
            " ORDER BY t.id DESC LIMIT 1",
            (r.unb64(tag), bytes.fromhex(before), bytes.fromhex(before)),
        )
        return (bytes(rows[0][0]).hex(), int(rows[0][1])) if rows else None

    def takers(self, trace: Trace) -> set[str]:
        """Traces that took something this one gave."""
        out: set[str] = set()
        for _, tag, _, role in trace.links:
            if role == r.GIVES:
                rows = self._store.query(
                    "SELECT t.tid FROM link l JOIN trace t ON t.id = l.trace"
                    " WHERE l.tag = ? AND l.role = 1",
                    (r.unb64(tag),),
                )
                out.update(bytes(row[0]).hex() for row in rows)
        return out - {trace.tid}

    def gather(self, tid: str, *, upstream: bool = True, downstream: bool = False) -> list[Trace]:
        """A trace and those it is linked with, in the directions asked for."""
        return self._gather(tid, upstream, downstream, _Given(self))

    def _gather(self, tid: str, upstream: bool, downstream: bool, given: _Given) -> list[Trace]:
        out: dict[str, Trace] = {}
        waiting = [tid]
        while waiting and len(out) < MAX_TRACES:
            here = waiting.pop()
            if here in out:
                continue
            trace = out[here] = given.trace(here)
            if upstream:
                waiting.extend(found[0].tid for _, found in given.taken(trace))
            if downstream:
                waiting.extend(self.takers(trace))
        return list(out.values())

    def join(
        self, tid: str, name: Naming, *, upstream: bool = True, downstream: bool = False
    ) -> Joined:
        """A trace and those it is linked with, joined; see :meth:`gather`.

        Args:
            tid: id of the trace.
            name: what tags stand for, as far as the reader may know.
            upstream: those that it took something from, and so on.
            downstream: those that took something from it, and so on.
        """
        given = _Given(self)
        return self._join(self._gather(tid, upstream, downstream, given), name, given)

    def joined(self, traces: list[Trace], name: Naming) -> Joined:
        """These traces and no others, joined."""
        return self._join(traces, name, _Given(self))

    def _join(self, traces: list[Trace], name: Naming, given: _Given) -> Joined:
        loaded = {trace.tid for trace in traces}
        crossings: list[Crossing] = []  # the same thing in an earlier trace
        for trace in traces:
            for item, (other, number) in given.taken(trace):
                if other.tid in loaded:
                    basis = "content" if _by_content(item) else "id"
                    came = (other.tid, number), (trace.tid, item.number)
                    crossings.append(Crossing("derived", *came, basis))
            crossings.extend(_of_taken_lists(trace, loaded, given))
        payloads = {payload for trace in traces for payload in trace.documents}
        newest = newest_erasure(self._store)
        if newest != self._erasure:
            self._erasure = newest
            self._sources.clear()
        source_of, named = self._sources_of(payloads)
        erased = erased_artifacts(self._store, traces, _came(crossings)) if newest >= 0 else {}
        return Joined(traces, crossings, source_of, name(traces, named), erased)

    def _sources_of(self, payloads: set[int]) -> tuple[dict[int, str], dict[str, int]]:
        """Tags of the sources of documents by payload, and the payloads that name these."""
        source_of: dict[int, str] = {}
        named: dict[str, int] = {}
        kept = self._sources
        for payload in payloads:
            if payload in kept:
                text, name = kept[payload]
                source_of[payload], named[text] = text, name
        missing = sorted(payloads - source_of.keys())
        if len(kept) > KEPT_SOURCES:
            kept.clear()
        for payload, tag, name in query_in(self._store, _SOURCES, missing):
            text = source_of[payload] = r.b64(tag)
            if name is not None:  # or it may be named later
                kept[payload], named[text] = (text, name), name
        return source_of, named


class _Given:
    """What earlier traces gave, each asked for once while traces are joined."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._traces: dict[str, Trace] = {}
        self._found: dict[tuple[str, str], tuple[Trace, int] | None] = {}
        self._flat: dict[tuple[str, int], list[tuple[Trace, int] | None]] = {}

    def __call__(self, tag: str, before: str) -> tuple[Trace, int] | None:
        key = tag, before
        if key not in self._found:
            found = self._paths.giver(tag, before)
            self._found[key] = None if found is None else (self.trace(found[0]), found[1])
        return self._found[key]

    def trace(self, tid: str) -> Trace:
        """A trace, loaded once while others are joined with it."""
        if tid not in self._traces:
            self._traces[tid] = self._paths.trace(tid)
        return self._traces[tid]

    def taken(self, trace: Trace) -> Iterator[tuple[Item, tuple[Trace, int]]]:
        """Artifacts of a trace that come from an earlier one, and what they are there."""
        for item in trace.taken:
            found = self(item.options["ext"], trace.tid)
            if found is not None:
                yield item, found

    def item(self, found: tuple[Trace, int], at: int) -> tuple[Trace, int] | None:
        """What stands at a place of a list that was given."""
        key = found[0].tid, found[1]
        if key not in self._flat:
            self._flat[key] = flat(*found, self)
        places = self._flat[key]
        return places[at] if 0 <= at < len(places) else None


def _of_taken_lists(trace: Trace, loaded: set[str], given: _Given) -> Iterator[Crossing]:
    """A message of an earlier trace that was met on its own comes from that message there."""
    for item in trace.placed:
        base, at = item.options["b"]
        here = trace.tid, item.number
        found = given(trace.items[base].options["ext"], trace.tid)
        if found is None or found[0].tid not in loaded:
            yield Crossing("member", (trace.tid, base), here, "observed")
            continue
        place = given.item(found, at)
        if place is not None and place[0].tid in loaded:
            yield Crossing("derived", (place[0].tid, place[1]), here, "id")


def _came(crossings: list[Crossing]) -> dict[str, str]:
    """Ids of artifacts of earlier traces by the ids of those that are the same thing."""
    return {
        f"{c.effect[0]}.a{c.effect[1]}": f"{c.cause[0]}.a{c.cause[1]}"
        for c in crossings
        if c.type == "derived"
    }


def _by_content(item: Item) -> bool:
    return item.kind in ("text", "document") or bool(item.options.get("c"))
