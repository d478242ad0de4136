"""Some traces with the links between them, as numbers: what came from what, before it is drawn.

Lineage needs a part of a few traces. The walk is over numbers of runs and artifacts as the records
have them; nodes and edges are made of what it reached, and of the rest when somebody asks for it.
Everything that the store had to say is here, so that a part can be cut when the store is closed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from provkeep.model.graph import Edge, Graph, Node, make_edge
from provkeep.reading.erased import marked
from provkeep.reading.graphs import Ids, actor_node, edges_of, nodes_of, structural
from provkeep.reading.traces import Names, Trace, members


@dataclass(slots=True)
class Crossing:
    """An edge from an artifact of one trace to one of another, or of what lies between them."""

    type: str
    cause: tuple[str, int]  # trace id and artifact
    effect: tuple[str, int]
    basis: str


@dataclass(slots=True)
class Reach:
    """What a walk reached: by trace id its artifacts, and its runs as -1 - number."""

    codes: dict[str, set[int]] = field(default_factory=dict)
    sources: set[str] = field(default_factory=set)  # tags in base64
    actors: set[str] = field(default_factory=set)

    def ids(self, ids: Mapping[str, Ids]) -> set[str]:
        """The ids of all of it."""
        out = {ids[tid][code] for tid, codes in self.codes.items() for code in codes}
        out.update(f"s.{tag}" for tag in self.sources)
        out.update(f"u.{tag}" for tag in self.actors)
        return out


def with_makers(trace: Trace, codes: Set[int]) -> set[int]:
    """With the runs that made these artifacts, also where they say nothing more of them."""
    out, items, runs = set(codes), trace.items, trace.runs
    for code in codes:
        if code in items and items[code].made_by in runs:
            out.add(~items[code].made_by)
    return out


class Upstream:
    """What something came from: counted at once, drawn when asked for."""

    def __init__(self, joined: Joined, reach: Reach) -> None:
        self._joined, self._reach = joined, reach

    def __len__(self) -> int:
        return self._joined.count(self._reach)

    def path(self) -> set[str]:
        """See ``lineage.Part``."""
        return self._joined.ids_of(self._reach)

    def graph(self) -> Graph:
        """See ``lineage.Part``."""
        return self._joined.draw(self._reach)


class Joined:
    """Traces that were loaded together.

    Args:
        traces: in the order in which they are drawn.
        crossings: edges between them.
        source_of: source tag (base64) by document payload number.
        names: what tags stand for, as far as the reader may know.
        erased: ids of erased artifacts, with the erase record.
    """

    def __init__(
        self,
        traces: list[Trace],
        crossings: list[Crossing],
        source_of: dict[int, str],
        names: Names,
        erased: dict[str, int],
    ) -> None:
        self.traces, self.source_of, self.names = traces, source_of, names
        self._crossings, self._erased = crossings, erased
        self._ids: Final = {trace.tid: Ids(trace.tid) for trace in traces}

    def has(self, node_id: str) -> bool:
        """Is it a run or an artifact of one of these traces?"""
        return self._place(node_id) is not None

    def _place(self, node_id: str) -> tuple[Trace, int] | None:
        tid, _, place = node_id.partition(".")
        if tid not in self._ids or place[:1] not in ("a", "r") or not place[1:].isdecimal():
            return None
        trace = next(trace for trace in self.traces if trace.tid == tid)
        number = int(place[1:])
        code, known = (number, trace.items) if place[0] == "a" else (~number, trace.runs)
        return (trace, code) if number in known and self._ids[tid][code] == node_id else None

    def whole(self) -> Graph:
        """All of it."""
        return self._whole

    @cached_property
    def _whole(self) -> Graph:
        nodes: dict[str, Node] = {}
        edges: list[Edge] = []
        for trace in self.traces:
            ids = self._ids[trace.tid]
            for node in nodes_of(trace, self.names, self.source_of, ids):
                nodes.setdefault(node.id, node)
            edges += edges_of(trace, self.source_of, ids)
        marked(nodes, self._erased)
        return Graph(nodes.values(), edges + [self._edge(c) for c in self._crossings])

    def _edge(self, crossing: Crossing) -> Edge:
        (cause, a), (effect, b) = crossing.cause, crossing.effect
        ids = self._ids
        return make_edge(crossing.type, ids[cause][a], ids[effect][b], crossing.basis)

    def upstream(self, focus: str) -> Upstream:
        """What an artifact or run came from.

        Raises:
            KeyError: these traces have no such artifact or run.
        """
        return Upstream(self, self.reach(focus))

    def draw(self, reach: Reach) -> Graph:
        """The graph of what a walk reached, with the runs that made what it reached."""
        if self._erased:  # whether a source was erased follows from all of its documents
            return self._whole.part(self.ids_of(reach))
        nodes: dict[str, Node] = {}
        edges: list[Edge] = []
        kept: dict[str, set[int]] = {}
        for trace in self.traces:
            if trace.tid not in reach.codes:
                if trace.head.get("actor") in reach.actors:
                    actor = actor_node(trace, self.names)
                    nodes.setdefault(actor.id, actor)
                continue
            keep = kept[trace.tid] = with_makers(trace, reach.codes[trace.tid])
            ids = self._ids[trace.tid]
            for node in nodes_of(trace, self.names, self.source_of, ids, keep, reach.actors):
                nodes.setdefault(node.id, node)
            edges += edges_of(trace, self.source_of, ids, keep)
        for crossing in self._crossings:
            (cause, a), (effect, b) = crossing.cause, crossing.effect
            if a in kept.get(cause, ()) and b in kept.get(effect, ()):
                edges.append(self._edge(crossing))
        return Graph(nodes.values(), edges)

    def ids_of(self, reach: Reach) -> set[str]:
        """The ids of all that a walk reached."""
        return reach.ids(self._ids)

    def count(self, reach: Reach) -> int:
        """How many nodes :meth:`draw` draws."""
        count = len(reach.sources) + len(reach.actors)
        for trace in self.traces:
            codes = reach.codes.get(trace.tid)
            if codes is not None:
                items, runs = trace.items, trace.runs
                for code in with_makers(trace, codes):
                    count += code in items if code >= 0 else ~code in runs
        return count

    def reach(self, focus: str) -> Reach:
        """Walk from an artifact or run along the flow of content, towards causes.

        Raises:
            KeyError: these traces have no such artifact or run.
        """
        place = self._place(focus)
        if place is None:
            raise KeyError(focus)
        begin, code = place
        out = Reach({begin.tid: {code}})
        loaded = {trace.tid: trace for trace in self.traces}
        across: dict[tuple[str, int], list[tuple[str, int]]] = {}
        for crossing in self._crossings:
            across.setdefault(crossing.effect, []).append(crossing.cause)
        waiting = {begin.tid: [code]}
        while waiting:
            tid, codes = waiting.popitem()
            seen = out.codes.setdefault(tid, set())
            for cause, number in self._within(loaded[tid], codes, seen, across, out):
                there = out.codes.setdefault(cause, set())
                if number not in there:
                    there.add(number)
                    waiting.setdefault(cause, []).append(number)
        return out

    def _within(
        self,
        trace: Trace,
        waiting: list[int],
        seen: set[int],
        across: Mapping[tuple[str, int], list[tuple[str, int]]],
        out: Reach,
    ) -> list[tuple[str, int]]:
        """Walk one trace from what has just been seen of it; what leads out of it is returned."""
        items, runs, source_of, tid = trace.items, trace.runs, self.source_of, trace.tid
        derived, actor = trace.causes, trace.head.get("actor")
        outward: list[tuple[str, int]] = []
        while waiting:
            here = waiting.pop()
            causes: Iterable[int]
            if here < 0:
                run = runs.get(~here)
                causes = () if run is None or run.children else run.used
            else:
                causes = derived.get(here, ())
                if across:
                    outward += across.get((tid, here), ())
            for cause in causes:
                if cause not in seen:
                    seen.add(cause)
                    waiting.append(cause)
            item = items.get(here) if here >= 0 else None
            if item is None:
                continue
            more: list[int] = []
            if item.members:
                more += members(trace, item)
            if item.kind == "document" and item.payload in source_of:
                out.sources.add(source_of[item.payload])
            if "x" not in item.options or not item.exact:
                maker = runs.get(item.made_by)
                if maker is None:
                    if actor is not None:
                        out.actors.add(actor)
                elif maker.children:
                    more += structural(trace, item, maker)
                else:
                    more.append(~maker.number)
            for cause in more:
                if cause not in seen:
                    seen.add(cause)
                    waiting.append(cause)
        return outward
