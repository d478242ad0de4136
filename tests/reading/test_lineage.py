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


def chain() -> Graph:
    """d1 -> p -> a -> b, and d2 -> p2 -> b beside it."""
    names = {"d1": "document", "p": "prompt", "a": "message", "b": "message"}
    nodes = [node(n, k) for n, k in {**names, "d2": "document", "p2": "prompt"}.items()]
    pairs = [("d1", "p"), ("p", "a"), ("a", "b"), ("d2", "p2"), ("p2", "b")]
    edges = [Edge(type="derived", cause=c, effect=e, basis="content") for c, e in pairs]
    return Graph(nodes, edges)


def test_a_part_knows_how_it_was_found_and_what_is_on_its_path():
    whole = chain()
    about = Lineage(whole, whole, "a")
    assert (about.way, set(about.path)) == ("upstream", {"d1", "p", "a"})
    down = about.downstream()
    assert (down.way, set(down.path)) == ("downstream", {"a", "b"})
    between = Lineage(whole, whole, "p").between("d1", "b")
    assert (between.way, set(between.path)) == ("between", {"d1", "p", "a", "b"})
    assert set(down.upstream().path) == {"d1", "p", "a"}
    assert set(about.between("d2", "a").path) == set()


def test_a_filter_does_not_break_the_path():
    """The steps that joined them are gone from the picture; they are on the path all the same."""
    whole = chain()
    documents = Lineage(whole, whole, "b").upstream().filter(kind="document")
    assert set(documents.graph.nodes) == {"d1", "d2"} <= set(documents.path)
    shown = Lineage(whole, whole, "a").filter(kind=["document", "message"])
    assert set(shown.graph.nodes) - set(shown.path) == {"b", "d2"}
