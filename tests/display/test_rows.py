import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provkeep.display.rows import MANY_ROWS, MAX_CAUSES, Ledger, arrange, in_order
from provkeep.model.graph import Edge, Graph, Node
from tests.display import sample


def drawn(ledger: Ledger) -> set[tuple[str, str]]:
    rows = ledger.rows
    return {
        (rows[c].node.id, rows[e].node.id)
        for rail in ledger.rails
        for c in rail.causes
        for e in rail.effects
    }


def artifact(name: str, kind: str = "message", order: int = 0) -> Node:
    return Node(id=name, type="artifact", kind=kind, label=name, trace="t", order=order)


def derived(cause: str, effect: str, **more: object) -> Edge:
    return Edge(type="derived", cause=cause, effect=effect, basis="content", **more)


def test_every_cause_stands_above_its_effect():
    graph, _ = sample.agent_run()
    place = {node_id: n for n, node_id in enumerate(in_order(graph))}
    assert all(place[e.cause] < place[e.effect] for e in graph.edges)
    assert len(place) == len(graph)


def test_a_source_stands_just_before_the_first_document_from_it():
    graph, _ = sample.agent_run()
    labels = [graph.nodes[i].label for i in in_order(graph)]
    assert labels[labels.index("policy-2026.pdf") + 1] == "policy-2026.pdf ¶1"
    assert labels[0] == "alice@acme (analyst)"


def test_a_composite_is_folded_away_and_its_members_join_what_used_it():
    nodes = [artifact("a"), artifact("b"), artifact("c", "composite"), artifact("d")]
    edges = [derived("a", "c"), derived("b", "c"), derived("c", "d")]
    ledger = arrange(Graph(nodes, edges))
    assert [row.node.id for row in ledger.rows] == ["a", "b", "d"]
    assert drawn(ledger) == {("a", "d"), ("b", "d")}


def test_a_path_through_several_composites_is_drawn_once():
    nodes = [artifact(n, "composite" if n in "bcd" else "message") for n in "abcde"]
    pairs = ["ab", "ac", "bd", "cd", "de", "de"]
    ledger = arrange(Graph(nodes, [derived(*pair) for pair in pairs]))
    assert drawn(ledger) == {("a", "e")}
    assert len(ledger.rails) == 1


def test_what_is_not_flow_is_not_drawn():
    graph = Graph([artifact("a"), artifact("b")], [derived("a", "b", flow=False)])
    assert not arrange(graph).rails


def test_a_composite_in_focus_is_shown():
    nodes = [artifact("a"), artifact("c", "composite")]
    ledger = arrange(Graph(nodes, [derived("a", "c")]), focus="c")
    assert [(row.node.id, row.word) for row in ledger.rows] == [("a", "MESSAGE"), ("c", "OUTPUT")]


def test_a_copy_that_only_hands_on_is_folded_away():
    nodes = [artifact("a"), artifact("b", "text"), artifact("c")]
    ledger = arrange(Graph(nodes, [derived("a", "b"), derived("b", "c")]))
    assert drawn(ledger) == {("a", "c")}
    dead_end = arrange(Graph(nodes[:2], [derived("a", "b")]))
    assert drawn(dead_end) == {("a", "b")}


def test_only_the_upstream_of_the_focus_is_strong():
    graph, answer = sample.agent_run()
    upstream = graph.walk(answer, upstream=True)
    ledger = arrange(graph, focus=answer)
    assert {r.node.id for r in ledger.rows if r.strong} == upstream & {
        r.node.id for r in ledger.rows
    }
    assert not all(r.strong for r in ledger.rows)
    assert all(r.strong for r in arrange(graph).rows)


def test_an_unknown_focus_is_refused():
    graph, _ = sample.agent_run()
    with pytest.raises(KeyError):
        arrange(graph, focus="nobody")


def test_what_was_given_and_what_came_out_are_named():
    graph, answer = sample.agent_run()
    words = {row.node.label: row.word for row in arrange(graph).rows}
    assert words["human"] == "INPUT"
    assert words["Final answer"] == "OUTPUT"
    assert words["Response #1"] == "RESPONSE"
    assert {row.word for row in arrange(graph).rows if row.node.id == answer} == {"OUTPUT"}


def test_inner_wrappers_are_folded_away_only_in_long_ledgers():
    def chains(steps: int) -> int:
        rows = arrange(sample.long_run(steps)).rows
        return sum(row.word == "CHAIN" for row in rows)

    assert chains(MANY_ROWS // 2) > 1
    assert chains(MANY_ROWS * 2) == 1


def test_past_the_limit_the_upstream_of_the_focus_is_kept():
    graph, answer = sample.agent_run()
    full = arrange(graph, focus=answer)
    strong = [row.node.id for row in full.rows if row.strong]
    ledger = arrange(graph, focus=answer, limit=len(strong))
    assert [row.node.id for row in ledger.rows] == strong
    assert ledger.left_out == len(full.rows) - len(strong)
    only = arrange(graph, focus=answer, limit=1)
    assert [row.node.id for row in only.rows] == [answer]
    with pytest.raises(ValueError, match="limit"):
        arrange(graph, limit=0)


def test_more_causes_than_are_drawn_is_said():
    many = [artifact(f"a{n}", order=n) for n in range(MAX_CAUSES + 5)]
    end = artifact("end", order=1000)
    graph = Graph([*many, end], [derived(a.id, "end") for a in many])
    ledger = arrange(graph)
    assert ledger.cut
    assert len(drawn(ledger)) == MAX_CAUSES
    assert not arrange(sample.agent_run()[0]).cut


IDS = st.sampled_from([f"n{n}" for n in range(12)])


@given(
    st.lists(st.tuples(IDS, IDS), max_size=40),
    st.lists(st.sampled_from(["message", "composite", "text"]), min_size=12, max_size=12),
    st.booleans(),
)
def test_any_graph_even_with_cycles_is_drawn_with_rails_that_never_share_a_place(
    pairs, kinds, share
):
    nodes = [artifact(f"n{n}", kind) for n, kind in enumerate(kinds)]
    graph = Graph(nodes, [derived(*pair) for pair in pairs])
    assert sorted(in_order(graph)) == sorted(graph.nodes)
    ledger = arrange(graph, share=share)
    taken: dict[int, list[tuple[int, int]]] = {}
    for rail in ledger.rails:
        assert rail.causes[-1] < rail.effects[0]
        taken.setdefault(rail.lane, []).append((rail.causes[0], rail.effects[-1]))
    for spans in taken.values():
        spans.sort()
        ends = itertools.pairwise(spans)
        assert all(a[1] <= b[0] if share else a[1] < b[0] for a, b in ends)


@given(st.lists(st.tuples(IDS, IDS), max_size=40), st.sets(IDS))
def test_folding_loses_no_path_between_shown_steps(pairs, folded):
    """What a walk finds from a shown step, the rails lead to, and the reverse."""
    forward = [(a, b) for a, b in pairs if int(a[1:]) < int(b[1:])]
    nodes = [
        artifact(f"n{n}", "composite" if f"n{n}" in folded else "message", order=n)
        for n in range(12)
    ]
    graph = Graph(nodes, [derived(*pair) for pair in forward])
    ledger = arrange(graph)
    shown = {row.node.id for row in ledger.rows}
    seen = Graph((n for n in nodes if n.id in shown), [derived(*pair) for pair in drawn(ledger)])
    for node_id in shown:
        expected = graph.walk(node_id, upstream=True) & shown
        assert seen.walk(node_id, upstream=True) == expected
