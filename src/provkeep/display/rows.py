"""Which steps a ledger shows, in which order, and which of them are joined by a rail.

The graph holds more than a reader needs: containers that only pass their members on, copies of a
text, chains whose children explain everything. These are folded away, and what flowed through
them is drawn as flowing past them, so no path of content is lost. Nothing is drawn here.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Set
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush, nlargest
from typing import Final

from provkeep.display.words import colour, kind_word
from provkeep.model.graph import ERASED, Graph, Node

MANY_ROWS: Final = 60  # above this, chains that only wrap others are folded away
MAX_CAUSES: Final = 200  # rails into one row; the nearest are drawn
_WRAPPERS: Final = frozenset({"chain", "node", "graph", "agent"})
_OUTPUTS: Final = frozenset({"message", "text", "data", "composite"})

_Key = tuple[int, str, int, int, int, int]  # trace start, trace, order, start, rank, place
_LAST: Final[_Key] = (2**63, "", 0, 0, 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One step as shown."""

    node: Node
    word: str  # the kind in capitals
    colour: str
    strong: bool  # on the path, or in the upstream of the focus, or there is neither
    focus: bool
    wrapper: bool  # a run that made nothing its children do not explain

    @property
    def erased(self) -> bool:
        """Can its text be opened no more?"""
        return self.node.status == ERASED


@dataclass(frozen=True, slots=True, kw_only=True)
class Rail:
    """A line from one or more causes, down a lane, to every one of their effects."""

    causes: tuple[int, ...]  # row numbers, ascending; all above all effects
    effects: tuple[int, ...]  # row numbers, ascending
    colour: str
    strong: bool  # whether the causes are
    lane: int  # 0 is nearest the rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """What to draw."""

    rows: tuple[Row, ...]
    rails: tuple[Rail, ...]
    lanes: int
    left_out: int  # rows past the limit
    cut: bool  # some rows have more causes than are drawn


def arrange(
    graph: Graph,
    *,
    focus: str | None = None,
    limit: int = 2000,
    share: bool = True,
    path: Set[str] | None = None,
) -> Ledger:
    """Choose rows and rails for ``graph``.

    Args:
        graph: any graph; edges to nodes it does not hold are ignored, as are edges that run
            against time in a cycle (which no recorder writes).
        focus: id of the node whose upstream is emphasised; always shown.
        limit: at most this many rows; those that are not emphasised go first, then the latest.
        share: let causes of one kind with the same effects share a rail.
        path: ids of what is emphasised instead of the upstream of the focus.

    Raises:
        KeyError: the graph has no node ``focus``.
        ValueError: ``limit`` is below 1.
    """
    if limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    if focus is not None and focus not in graph.nodes:
        raise KeyError(focus)
    if path is None:
        path = graph.walk(focus, upstream=True) if focus is not None else graph.nodes.keys()
    order = in_order(graph)
    first_runs = _first_runs(graph, order)
    hidden, wrappers = _hidden(graph, order, first_runs, focus)
    shown = [i for i in order if i not in hidden]
    left_out = len(shown) - limit
    if left_out > 0:
        ranked = sorted(
            range(len(shown)),
            key=lambda n: (shown[n] != focus, shown[n] not in path, n),
        )
        shown = [shown[n] for n in sorted(ranked[:limit])]
    place = {node_id: number for number, node_id in enumerate(shown)}
    causes, cut = _causes(graph, order, place, hidden)
    ends = {c for e, found in causes.items() if graph.nodes[e].kind != "note" for c in found}
    rows = tuple(
        Row(
            node=(node := graph.nodes[node_id]),
            word=(word := _word(graph, node, node_id in ends, first_runs, focus)),
            colour=colour(word),
            strong=node_id in path,
            focus=node_id == focus,
            wrapper=node_id in wrappers,
        )
        for node_id in shown
    )
    rails, lanes = _rails(rows, causes, place, share)
    return Ledger(rows=rows, rails=rails, lanes=lanes, left_out=max(0, left_out), cut=cut)


def in_order(graph: Graph) -> list[str]:
    """Return all node ids in time order, causes before effects.

    Traces follow each other by their start. A node that stands in no trace (a source, an actor)
    comes just before the first thing it led to.
    """
    nodes = graph.nodes
    starts: dict[str, int] = {}
    for node in nodes.values():
        if node.trace is not None and node.start_ns is not None:
            known = starts.get(node.trace)
            starts[node.trace] = node.start_ns if known is None else min(known, node.start_ns)
    keys: dict[str, _Key] = {}
    for number, node in enumerate(nodes.values()):
        if node.trace is not None:
            start = starts.get(node.trace, 0)
            keys[node.id] = (
                start,
                node.trace,
                node.order,
                node.start_ns or 0,
                1,
                number,
            )
    waiting = dict.fromkeys(nodes, 0)
    edges = [e for e in graph.edges if e.cause in nodes and e.effect in nodes]
    for edge in edges:
        waiting[edge.effect] += 1
    for number, node in enumerate(nodes.values()):
        if node.id not in keys:
            effects = (keys.get(e.effect, _LAST) for e in graph.out_of.get(node.id, ()))
            keys[node.id] = (*min(effects, default=_LAST)[:4], 0, number)
    ready = [(keys[i], i) for i, count in waiting.items() if not count]
    heapify(ready)
    by_time = iter(sorted(nodes, key=keys.__getitem__))
    out: list[str] = []
    done: set[str] = set()
    while len(out) < len(nodes):
        here = heappop(ready)[1] if ready else next(i for i in by_time if i not in done)
        if here in done:  # it was taken out of a cycle before its causes were
            continue
        done.add(here)
        out.append(here)
        for edge in graph.out_of.get(here, ()):
            if edge.effect in waiting:
                waiting[edge.effect] -= 1
                if not waiting[edge.effect] and edge.effect not in done:
                    heappush(ready, (keys[edge.effect], edge.effect))
    return out


def visible_links(graph: Graph) -> tuple[list[Node], list[tuple[str, str]]]:
    """Return the nodes a picture shows, in order, and each (cause, effect) between them once."""
    order = in_order(graph)
    hidden, _ = _hidden(graph, order, _first_runs(graph, order), None)
    place = {i: n for n, i in enumerate(i for i in order if i not in hidden)}
    causes, _ = _causes(graph, order, place, hidden)
    links = [(c, e) for e, found in causes.items() for c in sorted(found, key=place.__getitem__)]
    return [graph.nodes[i] for i in place], links


def _hidden(
    graph: Graph, order: list[str], first_runs: set[str], focus: str | None
) -> tuple[set[str], set[str]]:
    """Return the ids to fold away and, of those left, the wrappers."""
    hidden: set[str] = set()
    wrappers: list[str] = []
    for node_id in order:
        node = graph.nodes[node_id]
        if node_id == focus:
            continue
        is_copy = node.type == "artifact" and _is_copy(graph, node, first_runs)
        if is_copy or (node.type == "artifact" and node.kind == "composite"):
            hidden.add(node_id)
        elif node.type == "run" and node.kind in _WRAPPERS:
            made = (e for e in graph.out_of.get(node_id, ()) if e.type == "generated" and e.flow)
            if next(made, None) is None:
                wrappers.append(node_id)
    if len(order) - len(hidden) > MANY_ROWS:
        outer: set[str | None] = set()
        for node_id in wrappers:
            trace = graph.nodes[node_id].trace
            if trace in outer:
                hidden.add(node_id)
            outer.add(trace)
    return hidden, {w for w in wrappers if w not in hidden}


def _is_copy(graph: Graph, node: Node, first_runs: set[str]) -> bool:
    """Whether ``node`` only repeats the one artifact it came from and hands it on."""
    into = graph.into.get(node.id, ())
    if node.kind not in ("text", "data") or any(e.cause in first_runs for e in into):
        return False
    origins = [e for e in into if e.flow]
    return (
        len(origins) == 1
        and origins[0].type == "derived"
        and origins[0].basis == "content"
        and any(e.flow for e in graph.out_of.get(node.id, ()))
    )


def _causes(
    graph: Graph, order: list[str], place: dict[str, int], hidden: set[str]
) -> tuple[dict[str, set[str]], bool]:
    """Return the shown causes of every shown node, looking through hidden ones."""
    position = {node_id: number for number, node_id in enumerate(order)}
    through: dict[str, set[str]] = {}
    out: dict[str, set[str]] = {}
    cut = False
    for node_id in order:
        if node_id not in place and node_id not in hidden:
            continue
        found: set[str] = set()
        for edge in graph.into.get(node_id, ()):
            cause = edge.cause
            if edge.flow and position.get(cause, len(order)) < position[node_id]:
                found |= through[cause] if cause in hidden else {cause} & place.keys()
        if len(found) > MAX_CAUSES:
            cut = True
            found = set(nlargest(MAX_CAUSES, found, key=position.__getitem__))
        (through if node_id in hidden else out)[node_id] = found
    return out, cut


def _first_runs(graph: Graph, order: list[str]) -> set[str]:
    """Return the outermost run of every trace."""
    first: dict[str | None, str] = {}
    for node_id in order:
        if graph.nodes[node_id].type == "run":
            first.setdefault(graph.nodes[node_id].trace, node_id)
    return set(first.values())


def _word(
    graph: Graph, node: Node, has_effects: bool, first_runs: set[str], focus: str | None
) -> str:
    """Name the kind; what a trace was given and what it gave stand out."""
    word = kind_word(node)
    if node.type != "artifact" or node.kind not in _OUTPUTS:
        return word
    into = graph.into.get(node.id, ())
    if not into and word in ("TEXT", "DATA", "MESSAGE"):
        given = any(e.effect in first_runs for e in graph.out_of.get(node.id, ()))
        return "INPUT" if given else word
    made = any(e.type == "generated" and e.cause in first_runs for e in into)
    return "OUTPUT" if not has_effects and into and (made or node.id == focus) else word


def _rails(
    rows: tuple[Row, ...],
    causes: dict[str, set[str]],
    place: dict[str, int],
    share: bool,
) -> tuple[tuple[Rail, ...], int]:
    effects: dict[int, list[int]] = {}
    for number, row in enumerate(rows):
        for cause in causes[row.node.id]:
            effects.setdefault(place[cause], []).append(number)
    groups: dict[tuple[object, ...], Rail] = {}
    for cause_row in sorted(effects):
        row, targets = rows[cause_row], tuple(effects[cause_row])
        key = (targets, row.colour, row.strong, None if share else cause_row)
        known = groups.get(key)
        groups[key] = Rail(
            causes=(*known.causes, cause_row) if known else (cause_row,),
            effects=targets,
            colour=row.colour,
            strong=row.strong,
            lane=0,
        )
    return _lanes(groups.values(), 0 if share else 1)


def _lanes(rails: Iterable[Rail], gap: int) -> tuple[tuple[Rail, ...], int]:
    """Give every rail a lane that is free all its length; short rails stand nearest the rows."""
    lanes: list[list[tuple[int, int]]] = []  # per lane, its rails' first and last row, ascending
    out: list[Rail] = []
    for rail in sorted(rails, key=lambda r: (r.effects[-1] - r.causes[0], r.causes[0])):
        length = (rail.causes[0], rail.effects[-1])
        lane = next((n for n, taken in enumerate(lanes) if _fits(length, taken, gap)), len(lanes))
        if lane == len(lanes):
            lanes.append([])
        insort(lanes[lane], length)
        out.append(replace(rail, lane=lane))
    return tuple(out), len(lanes)


def _fits(length: tuple[int, int], taken: list[tuple[int, int]], gap: int) -> bool:
    at = bisect_left(taken, length)
    return (at == 0 or taken[at - 1][1] + gap <= length[0]) and (
        at == len(taken) or length[1] + gap <= taken[at][0]
    )
