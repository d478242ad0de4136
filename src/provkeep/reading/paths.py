"""Graphs that span traces: a conversation's turns, an interrupt and its resume, a cached answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from provkeep.model import records as r
from provkeep.model.graph import Edge, Graph, Node
from provkeep.reading.erased import erased_artifacts, marked
from provkeep.reading.graphs import edges_of, nodes_of
from provkeep.reading.traces import Item, Names, Trace, flat, load_trace
from provkeep.store.base import Store

MAX_TRACES: Final = 2_000  # traces joined into one graph
KEPT: Final = 64  # traces kept loaded


class Paths:
    """Loads traces of one store and the links between them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: dict[str, Trace] = {}

    def trace(self, tid: str) -> Trace:
        """One trace; a finished one is loaded once."""
        found = self._kept.get(tid)
        if found is None:
            found = load_trace(self._store, bytes.fromhex(tid))
            if found.output >= 0 or found.answer >= 0:
                self._kept[tid] = found
                if len(self._kept) > KEPT:
                    self._kept.pop(next(iter(self._kept)))
        return found

    def forget(self) -> None:
        """Load everything anew."""
        self._kept.clear()

    def given(self, tag: str, before: str) -> tuple[Trace, int] | None:
        """The artifact that an earlier trace gave under a link tag, the latest if several did."""
        rows = self._store.query(
            "SELECT t.tid, l.artifact FROM link l JOIN trace t ON t.id = l.trace"
            " WHERE l.tag = ? AND l.role = 0 AND t.tid <> ?"
            " AND t.id < coalesce((SELECT id FROM trace WHERE tid = ?), 0)"
            " ORDER BY t.id DESC LIMIT 1",
            (r.unb64(tag), bytes.fromhex(before), bytes.fromhex(before)),
        )
        if not rows:
            return None
        return self.trace(bytes(rows[0][0]).hex()), int(rows[0][1])

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
        out: dict[str, Trace] = {}
        waiting = [tid]
        while waiting and len(out) < MAX_TRACES:
            here = waiting.pop()
            if here in out:
                continue
            trace = out[here] = self.trace(here)
            if upstream:
                waiting.extend(found[0].tid for _, found in self._taken(trace))
            if downstream:
                waiting.extend(self.takers(trace))
        return list(out.values())

    def _taken(self, trace: Trace) -> Iterator[tuple[Any, tuple[Trace, int]]]:
        for item in trace.items.values():
            tag = item.options.get("ext")
            if tag:
                found = self.given(tag, trace.tid)
                if found is not None:
                    yield item, found

    def graph(self, traces: list[Trace], names: Names) -> Graph:
        """The graph of some traces, joined."""
        payloads = {
            item.payload
            for trace in traces
            for item in trace.items.values()
            if item.kind == "document" and item.payload is not None
        }
        source_of = self._sources(payloads)
        loaded = {trace.tid for trace in traces}
        nodes: dict[str, Node] = {}
        edges: list[Edge] = []
        taken: list[Edge] = []  # the same thing in an earlier trace
        for trace in traces:
            for node in nodes_of(trace, names, source_of):
                nodes.setdefault(node.id, node)
            edges.extend(edges_of(trace, source_of))
            for item, (other, number) in self._taken(trace):
                if other.tid in loaded:
                    taken.append(
                        Edge(
                            type="derived",
                            cause=other.artifact_id(number),
                            effect=trace.artifact_id(item.number),
                            basis="content" if _by_content(item) else "id",
                        )
                    )
            taken.extend(self._of_taken_lists(trace, loaded))
        came = {edge.effect: edge.cause for edge in taken if edge.type == "derived"}
        marked(nodes, erased_artifacts(self._store, traces, came))
        return Graph(nodes.values(), edges + taken)

    def _of_taken_lists(self, trace: Trace, loaded: set[str]) -> Iterator[Edge]:
        """A message of an earlier trace that was met on its own comes from that message there."""
        for item in trace.items.values():
            if "b" not in item.options:
                continue
            base, at = item.options["b"]
            found = self.given(trace.items[base].options["ext"], trace.tid)
            if found is None or found[0].tid not in loaded:
                yield Edge(
                    type="member",
                    cause=trace.artifact_id(base),
                    effect=trace.artifact_id(item.number),
                    basis="observed",
                )
                continue
            place = next(iter(flat(*found, self.given)[at : at + 1]), None)
            if place is not None and place[0].tid in loaded:
                yield Edge(
                    type="derived",
                    cause=place[0].artifact_id(place[1]),
                    effect=trace.artifact_id(item.number),
                    basis="id",
                )

    def _sources(self, payloads: set[int]) -> dict[int, str]:
        out: dict[int, str] = {}
        wanted = sorted(payloads)
        for at in range(0, len(wanted), 500):
            some = wanted[at : at + 500]
            marks = ",".join("?" * len(some))
            for payload, tag in self._store.query(
                "SELECT p.id, s.tag FROM payload p JOIN source s ON s.id = p.source"  # noqa: S608  # marks only
                f" WHERE p.id IN ({marks})",
                some,
            ):
                out[payload] = r.b64(tag)
        return out


def _by_content(item: Item) -> bool:
    return item.kind in ("text", "document") or bool(item.options.get("c"))
