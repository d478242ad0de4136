"""The provenance graph in memory: nodes, edges, and the walks over them.

Pure: nothing here opens a store or a payload, so a graph loaded from an export answers the same
lineage questions as the store it came from. Words follow W3C PROV: a run is an Activity, an
artifact an Entity, an actor an Agent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Final

from provkeep.model import records

NODE_TYPES: Final = ("run", "artifact", "source", "actor")
ERASED: Final = "erased"  # the status of an artifact or a source whose key was destroyed
EDGE_TYPES: Final = ("used", "generated", "derived", "member", "informed", "attributed")
BASES: Final = records.BASES
ARTIFACT_KINDS: Final = records.KINDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Which characters of the effect come from which characters of the cause (half-open)."""

    target_start: int
    target_end: int
    source_start: int
    source_end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A run, an artifact, a source or an actor.

    ``id`` is unique in a store (``<trace id>.r3`` for a run, ``<trace id>.a12`` for an artifact,
    ``s.<tag>`` for a source, ``u.<tag>`` for an actor). ``kind`` refines ``type``. ``label`` is
    safe to show: a component's name, a role, or a name from the catalogue; never a payload.
    ``order`` is the position in time within a trace. Times are UTC nanoseconds since 1970.
    ``status`` is how a run ended; of an artifact or a source it is ``erased`` or nothing, and
    ``attrs["erased"]`` is then the number of the erase record.
    """

    id: str
    type: str
    kind: str
    label: str
    trace: str | None = None
    order: int = 0
    start_ns: int | None = None
    end_ns: int | None = None
    status: str | None = None
    compartment: str | None = None
    size: int | None = None  # characters of text, or None
    labels: tuple[str, ...] = ()
    attrs: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<{self.type} {self.id} {self.kind} {self.label!r}>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """A directed link from a cause to its effect.

    ``flow`` is False where the link is a fact (this run made that artifact) but not a path of
    content, because finer edges explain the artifact: lineage does not walk through it.
    """

    type: str
    cause: str
    effect: str
    basis: str
    coverage_permille: int | None = None
    spans: tuple[Span, ...] = ()
    flow: bool = True

    def __repr__(self) -> str:
        return f"<{self.cause} -{self.type}/{self.basis}-> {self.effect}>"


def make_node(
    id: str,
    type: str,
    kind: str,
    label: str,
    trace: str | None,
    order: int,
    start_ns: int | None,
    end_ns: int | None,
    status: str | None,
    compartment: str | None,
    size: int | None,
    attrs: Mapping[str, Any],
) -> Node:
    """A node as its class makes it, in a third of the time: a lineage has many."""
    out = _new(Node)
    _node_id(out, id)
    _node_type(out, type)
    _node_kind(out, kind)
    _node_label(out, label)
    _node_trace(out, trace)
    _node_order(out, order)
    _node_start_ns(out, start_ns)
    _node_end_ns(out, end_ns)
    _node_status(out, status)
    _node_compartment(out, compartment)
    _node_size(out, size)
    _node_labels(out, ())
    _node_attrs(out, attrs)
    return out


def make_edge(
    type: str,
    cause: str,
    effect: str,
    basis: str,
    coverage_permille: int | None = None,
    spans: tuple[Span, ...] = (),
    flow: bool = True,
) -> Edge:
    """An edge as its class makes it, in half of the time: a lineage has many."""
    out = _new(Edge)
    _put_type(out, type)
    _put_cause(out, cause)
    _put_effect(out, effect)
    _put_basis(out, basis)
    _put_coverage(out, coverage_permille)
    _put_spans(out, spans)
    _put_flow(out, flow)
    return out


# What a frozen dataclass's own constructor does, without looking each slot up by its name.
_new: Final = object.__new__
(
    _node_id,
    _node_type,
    _node_kind,
    _node_label,
    _node_trace,
    _node_order,
    _node_start_ns,
    _node_end_ns,
    _node_status,
    _node_compartment,
    _node_size,
    _node_labels,
    _node_attrs,
) = (getattr(Node, f.name).__set__ for f in fields(Node))
(
    _put_type,
    _put_cause,
    _put_effect,
    _put_basis,
    _put_coverage,
    _put_spans,
    _put_flow,
) = (getattr(Edge, f.name).__set__ for f in fields(Edge))


class Graph:
    """Nodes by id and the edges between them."""

    def __init__(self, nodes: Iterable[Node], edges: Iterable[Edge]) -> None:
        self.nodes: dict[str, Node] = {n.id: n for n in nodes}
        self.edges: tuple[Edge, ...] = tuple(edges)

    def __repr__(self) -> str:
        return f"<Graph of {len(self.nodes)} nodes, {len(self.edges)} edges>"

    def __len__(self) -> int:
        return len(self.nodes)

    @cached_property
    def into(self) -> dict[str, list[Edge]]:
        """Edges by effect."""
        out: dict[str, list[Edge]] = {}
        for edge in self.edges:
            out.setdefault(edge.effect, []).append(edge)
        return out

    @cached_property
    def out_of(self) -> dict[str, list[Edge]]:
        """Edges by cause."""
        out: dict[str, list[Edge]] = {}
        for edge in self.edges:
            out.setdefault(edge.cause, []).append(edge)
        return out

    def upstream(self, node_id: str, **limits: Any) -> Graph:
        """The part of the graph ``node_id`` came from; limits as in :meth:`walk`."""
        return self.part(self.walk(node_id, upstream=True, **limits))

    def path(self, cause: str, effect: str) -> set[str]:
        """Ids of every node on a path from ``cause`` to ``effect``; none when there is no path."""
        down = self.walk(cause, upstream=False)
        return down & self.walk(effect, upstream=True) if effect in down else set()

    def walk(
        self,
        node_id: str,
        *,
        upstream: bool,
        basis: Iterable[str] | None = None,
        depth: int | None = None,
    ) -> set[str]:
        """Ids reached from ``node_id`` along the flow of content, itself included.

        Args:
            node_id: where to begin.
            upstream: towards causes, else towards effects.
            basis: follow only edges known on one of these bases.
            depth: at most this many edges away.

        Raises:
            KeyError: the graph has no such node.
        """
        if node_id not in self.nodes:
            raise KeyError(node_id)
        allowed = None if basis is None else frozenset(basis)
        table = self.into if upstream else self.out_of
        seen, frontier, steps = {node_id}, [node_id], 0
        while frontier and (depth is None or steps < depth):
            steps += 1
            following: list[str] = []
            for here in frontier:
                for edge in table.get(here, ()):
                    other = edge.cause if upstream else edge.effect
                    if other in seen or not edge.flow:
                        continue
                    if allowed is not None and edge.basis not in allowed:
                        continue
                    seen.add(other)
                    following.append(other)
            frontier = following
        return seen

    def part(self, ids: set[str]) -> Graph:
        """The sub-graph of ``ids`` with, for every artifact, the run that made it."""
        keep = set(ids)
        for edge in self.edges:
            if edge.type == "generated" and not edge.flow and edge.effect in ids:
                keep.add(edge.cause)
        return Graph(
            (n for n in self.nodes.values() if n.id in keep),
            (e for e in self.edges if e.cause in keep and e.effect in keep),
        )

    def of(self, type_: str, *kinds: str) -> Iterator[Node]:
        """Nodes of one type, and of these kinds if any are given, in order of time."""
        found = (
            n for n in self.nodes.values() if n.type == type_ and (not kinds or n.kind in kinds)
        )
        return iter(sorted(found, key=lambda n: (n.start_ns or 0, n.trace or "", n.order)))
