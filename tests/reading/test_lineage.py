"""Spans carried from text to text."""

from hypothesis import given
from hypothesis import strategies as st

from provkeep.model.graph import Edge, Graph, Node, Span
from provkeep.reading.lineage import Lineage, _composed


def span(target: int, source: int, size: int) -> Span:
    return Span(
        target_start=target, target_end=target + size, source_start=source, source_end=source + size
    )


SPANS = st.lists(
    st.builds(span, st.integers(0, 40), st.integers(0, 40), st.integers(1, 12)), max_size=12
)


@given(SPANS, SPANS)
def test_spans_composed_say_each_character_that_both_say(first, then):
    """Held against the definition, character by character."""
    composed = {
        (s.source_start + k, s.target_start + k)
        for s in _composed(first, then)
        for k in range(s.source_end - s.source_start)
    }
    expected = {
        (a.source_start + i, b.target_start + j)
        for a in first
        for b in then
        for i in range(a.target_end - a.target_start)
        for j in range(b.source_end - b.source_start)
        if a.target_start + i == b.source_start + j
    }
    assert composed == expected


def node(name: str, kind: str) -> Node:
    return Node(id=name, type="artifact", kind=kind, label=name, trace="t", size=200_000)


def test_twenty_thousand_spans_over_two_texts_are_twenty_thousand_quotations():
    """Every span meets its own in the next text, and is not compared with all the others."""
    nodes = [node("d", "document"), node("p", "prompt"), node("a", "text")]
    many = [span(10 * i, 10 * i, 5) for i in range(20_000)]
    moved = [span(10 * i, 199_990 - 10 * i, 5) for i in range(20_000)]
    edges = [
        Edge(type="derived", cause="d", effect="p", basis="contained", spans=tuple(many)),
        Edge(type="derived", cause="p", effect="a", basis="contained", spans=tuple(moved)),
    ]
    graph = Graph(nodes, edges)
    (source,) = Lineage(graph, graph, "a").sources()
    places = {(q.start, q.document_start) for q in source.quotations}
    assert places == {(10 * i, 199_990 - 10 * i) for i in range(20_000)}
