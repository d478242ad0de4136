"""The answer to "where did this come from": a part of the graph, and what it says of sources.

Pure over a graph, so an export answers as the store did.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, Protocol

from provkeep.model.graph import Edge, Graph, Node, Span

# How well an edge is known, best first. A leaf run's own step says nothing about how its inputs
# came to be its inputs, so it does not weaken a path.
_STRENGTH: Final = {"observed": 5, "id": 4, "content": 3, "contained": 2, "structural": 1}
_NAMES: Final = {v: k for k, v in _STRENGTH.items()}
MAX_SPANS: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotation:
    """Characters of an answer that stand in a document (half-open, code points)."""

    document: str  # artifact id
    start: int
    end: int
    document_start: int
    document_end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A source that an artifact came from.

    ``basis`` is the weakest step of the best path: ``structural`` means that only the shape of the
    chain says so. ``prompt_spans`` are the characters of model inputs that came from it, by
    artifact id; ``quotations`` those of the artifact itself.
    """

    id: str | None  # None when the document named none
    name: str
    documents: tuple[str, ...]  # artifact ids
    basis: str
    coverage_permille: int | None
    prompt_spans: tuple[tuple[str, Span], ...] = ()
    quotations: tuple[Quotation, ...] = ()

    def __repr__(self) -> str:
        found = f", {len(self.quotations)} quotations" if self.quotations else ""
        return f"<Source {self.name!r}: {len(self.documents)} documents, {self.basis}{found}>"


class Part(Protocol):
    """All that is upstream of something, before it is drawn."""

    def __len__(self) -> int:
        """How many nodes it has."""

    def path(self) -> AbstractSet[str]:
        """Ids of what content flowed through."""

    def graph(self) -> Graph:
        """Its nodes and edges."""


class Lineage:
    """A part of the provenance graph, around one artifact or run.

    ``graph`` is the part itself, ``whole`` the graph it was cut from, ``focus`` the id it is about,
    ``way`` how the part was found: ``upstream`` or ``downstream`` of the focus, or ``between``.
    ``path`` is told where it is known already. What is not drawn yet, a ``Part`` with all that is
    upstream of the focus or a whole that a call draws, is drawn when it is first asked for.
    """

    def __init__(
        self,
        graph: Graph | Part,
        whole: Graph | Callable[[], Graph],
        focus: str | None,
        *,
        way: str = "upstream",
        path: AbstractSet[str] | None = None,
    ) -> None:
        self.focus, self.way = focus, way
        self._whole, self._path = whole, path
        self._graph = graph if isinstance(graph, Graph) else None
        self._complete = None if isinstance(graph, Graph) else graph

    @property
    def graph(self) -> Graph:
        """The part itself."""
        if self._graph is None:
            self._graph = self._complete.graph() if self._complete is not None else Graph((), ())
        return self._graph

    @property
    def whole(self) -> Graph:
        """The graph that this is a part of."""
        if not isinstance(self._whole, Graph):
            self._whole = self._whole()
        return self._whole

    @property
    def path(self) -> AbstractSet[str]:
        """Ids of what content flowed through; the rest stands beside it, and is drawn pale."""
        if self._path is None and self._complete is not None:
            self._path = self._complete.path()
        if self._path is None:
            known = self.focus is not None and self.focus in self.graph.nodes
            self._path = (
                self.graph.walk(str(self.focus), upstream=self.way != "downstream")
                if known and self.way != "between"
                else self.graph.nodes.keys()
            )
        return self._path

    def __repr__(self) -> str:
        counts: dict[str, int] = {}
        for node in self.graph.nodes.values():
            counts[node.type] = counts.get(node.type, 0) + 1
        said = ", ".join(f"{n} {kind}s" for kind, n in counts.items()) or "nothing"
        return f"<Lineage of {self.focus or 'a trace'}: {said}>"

    def __len__(self) -> int:
        return len(self._complete if self._graph is None and self._complete else self.graph)

    def __iter__(self) -> Iterator[Node]:
        nodes = self.graph.nodes.values()
        return iter(sorted(nodes, key=lambda n: (n.start_ns or 0, n.trace or "", n.order)))

    @property
    def nodes(self) -> list[Node]:
        """The nodes, in order of time."""
        return list(self)

    @property
    def edges(self) -> tuple[Edge, ...]:
        """The edges between them."""
        return self.graph.edges

    def _about(self) -> str:
        if self.focus is None:
            raise ValueError("this is a whole trace; name an artifact or a run: lineage(id)")
        return self.focus

    def _like(self, graph: Graph, path: AbstractSet[str], way: str) -> Lineage:
        return type(self)(graph, self._whole, self.focus, way=way, path=path)

    def _part(self, path: set[str], way: str) -> Lineage:
        return self._like(self.whole.part(path), path, way)

    def upstream(self, *, basis: Iterable[str] | None = None, depth: int | None = None) -> Lineage:
        """What it came from; only over edges of these bases, at most ``depth`` edges away."""
        path = self.whole.walk(self._about(), upstream=True, basis=basis, depth=depth)
        return self._part(path, "upstream")

    def downstream(
        self, *, basis: Iterable[str] | None = None, depth: int | None = None
    ) -> Lineage:
        """What it led to within the traces loaded; ``Reader.impact`` follows a source further."""
        path = self.whole.walk(self._about(), upstream=False, basis=basis, depth=depth)
        return self._part(path, "downstream")

    def between(self, cause: Node | str, effect: Node | str) -> Lineage:
        """Every node on a path from one to the other; empty when there is none."""
        return self._part(self.whole.path(node_id(cause), node_id(effect)), "between")

    def filter(
        self, *, type: str | None = None, kind: str | Iterable[str] | None = None
    ) -> Lineage:
        """Only nodes of this type and these kinds, and the edges between them."""
        kinds = {kind} if isinstance(kind, str) else None if kind is None else set(kind)
        keep = {
            n.id
            for n in self.graph.nodes.values()
            if (type is None or n.type == type) and (kinds is None or n.kind in kinds)
        }
        nodes = (self.graph.nodes[i] for i in keep)
        edges = (e for e in self.graph.edges if e.cause in keep and e.effect in keep)
        return self._like(Graph(nodes, edges), self.path, self.way)

    def sources(self) -> list[Source]:
        """The sources of the documents it came from: exactly those whose text reached it."""
        focus = self._about()
        part = self.graph if self._complete is not None else self.whole.upstream(focus)
        strength = _strengths(part, focus)
        used = {
            e.cause for e in part.edges if e.type == "used" and part.nodes[e.effect].kind == "model"
        }
        prompts = _closed(part, used)
        grouped: dict[str, list[Node]] = {}
        for document in part.of("artifact", "document"):
            key = str(document.attrs.get("source") or document.id)
            grouped.setdefault(key, []).append(document)
        out: list[Source] = []
        for key, documents in grouped.items():
            node = part.nodes.get(key)
            spans: list[tuple[str, Span]] = []
            quotes: list[Quotation] = []
            coverage: int | None = None
            for document in documents:
                for place, span in _carried(part, document):
                    if place == focus:
                        quotes.append(
                            Quotation(
                                document=document.id,
                                start=span.target_start,
                                end=span.target_end,
                                document_start=span.source_start,
                                document_end=span.source_end,
                            )
                        )
                    elif place in prompts:
                        spans.append((place, span))
                for edge in part.out_of.get(document.id, ()):
                    if edge.coverage_permille is not None:
                        coverage = max(coverage or 0, edge.coverage_permille)
            best = max(strength.get(d.id, 1) for d in documents)
            out.append(
                Source(
                    id=key if node is not None and node.type == "source" else None,
                    name=node.label if node is not None else documents[0].label,
                    documents=tuple(d.id for d in documents),
                    basis=_NAMES[best],
                    coverage_permille=coverage,
                    prompt_spans=tuple(dict.fromkeys(spans)),
                    quotations=tuple(sorted(set(quotes), key=lambda q: (q.start, q.document))),
                )
            )
        return out


def node_id(node: Node | str) -> str:
    """The id of a node, given it or its id."""
    return node.id if isinstance(node, Node) else node


def _strengths(part: Graph, focus: str) -> dict[str, int]:
    """For every node, how strong the best path to ``focus`` is: that of its weakest edge."""
    best = {focus: _STRENGTH["observed"]}
    waiting = [focus]
    while waiting:
        here = waiting.pop()
        for edge in part.into.get(here, ()):
            if not edge.flow:
                continue
            value = min(best[here], _STRENGTH[edge.basis])
            if value > best.get(edge.cause, 0):
                best[edge.cause] = value
                waiting.append(edge.cause)
    return best


def _closed(part: Graph, ids: set[str]) -> set[str]:
    """``ids`` and everything they are made of."""
    out, waiting = set(ids), list(ids)
    while waiting:
        for edge in part.into.get(waiting.pop(), ()):
            if edge.type == "member" and edge.cause not in out:
                out.add(edge.cause)
                waiting.append(edge.cause)
    return out


def _carried(part: Graph, document: Node) -> Iterator[tuple[str, Span]]:
    """Where characters of a document stand downstream of it: artifact and span, transitively."""
    size = document.size or 0
    whole = Span(target_start=0, target_end=size, source_start=0, source_end=size)
    places: dict[str, dict[Span, None]] = {document.id: {whole: None}}
    waiting = [document.id]
    while waiting:
        here = waiting.pop()
        for edge in part.out_of.get(here, ()):
            if edge.type != "derived" or edge.basis not in ("id", "content", "contained"):
                continue
            spans, there = edge.spans, places.get(edge.effect, {})
            if len(there) >= MAX_SPANS:
                continue
            if not spans:
                effect = part.nodes.get(edge.effect)
                if edge.basis == "contained" or effect is None or not effect.size:
                    continue
                n = effect.size
                spans = (Span(target_start=0, target_end=n, source_start=0, source_end=n),)
            new = [s for s in _composed(places[here], spans) if s not in there]
            if new:
                places.setdefault(edge.effect, {}).update(dict.fromkeys(new))
                waiting.append(edge.effect)
    for place, spans_here in places.items():
        if place != document.id:
            for span in spans_here:
                yield place, span


def _composed(first: Iterable[Span], then: Sequence[Span]) -> Iterator[Span]:
    """Spans of a text in a middle one, carried on by where the middle one stands in a third."""
    then = sorted(then, key=lambda b: b.source_start)
    starts = [b.source_start for b in then]
    reach = list(accumulate((b.source_end for b in then), max))
    for a in first:
        # Before the first of these all end too early, after the last all begin too late.
        begin = bisect_right(reach, a.target_start)
        for b in then[begin : bisect_left(starts, a.target_end)]:
            start = max(a.target_start, b.source_start)
            end = min(a.target_end, b.source_end)
            if start < end:
                yield Span(
                    target_start=b.target_start + start - b.source_start,
                    # The two sides of a near match differ in length: keep a span's own end.
                    target_end=b.target_end
                    if end == b.source_end
                    else min(b.target_end, b.target_start + end - b.source_start),
                    source_start=a.source_start + start - a.target_start,
                    source_end=min(a.source_end, a.source_start + end - a.target_start),
                )
