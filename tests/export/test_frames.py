import importlib
import json

import pytest

from provkeep.errors import MissingExtraError, ProvkeepError
from provkeep.export.frames import to_networkx, to_pandas
from provkeep.export.prov import to_prov_json, utc
from provkeep.model.graph import Edge, Graph, Node
from tests.display import sample


def test_networkx_walks_the_same_upstream():
    networkx = pytest.importorskip("networkx")
    graph, answer = sample.agent_run()
    flow = to_networkx(graph)
    flow.remove_edges_from(
        [(a, b, k) for a, b, k, f in flow.edges(keys=True, data="flow") if not f]
    )
    assert networkx.ancestors(flow, answer) | {answer} == graph.walk(answer, upstream=True)
    assert flow.nodes[answer]["label"] == "Final answer"
    assert flow.nodes[answer]["size"] == 312


def test_pandas_keeps_times_to_the_nanosecond():
    pandas = pytest.importorskip("pandas")
    graph, answer = sample.agent_run()
    nodes, edges = to_pandas(graph)
    assert (len(nodes), len(edges)) == (len(graph), len(graph.edges))
    chain = next(graph.of("run", "chain"))
    assert nodes.loc[chain.id, "start_ns"] == chain.start_ns
    assert nodes.loc[chain.id, "start"].value == chain.start_ns
    assert nodes.loc[chain.id, "start"].tz is not None
    assert pandas.isna(nodes.loc[answer, "end"])
    assert edges["flow"].dtype == bool
    assert set(edges["cause"]) <= set(nodes.index)


def test_an_empty_graph_has_the_same_columns():
    pytest.importorskip("pandas")
    full, empty = to_pandas(sample.agent_run()[0]), to_pandas(Graph((), ()))
    for a, b in zip(full, empty, strict=True):
        assert list(a.columns) == list(b.columns)
        assert list(a.dtypes) == list(b.dtypes)


@pytest.mark.parametrize(("export", "extra"), [(to_pandas, "pandas"), (to_networkx, "networkx")])
def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch, export, extra):
    def absent(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(MissingExtraError, match=rf'pip install "provkeep\[{extra}\]"') as caught:
        export(Graph((), ()))
    assert isinstance(caught.value, ProvkeepError)


def test_a_package_that_is_there_but_broken_is_not_called_missing(monkeypatch):
    def broken(name):
        raise ModuleNotFoundError("No module named 'numpy'", name="numpy")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(ModuleNotFoundError, match="numpy"):
        to_pandas(Graph((), ()))


def test_every_node_and_edge_has_its_prov_term():
    graph, answer = sample.agent_run()
    document = to_prov_json(graph)
    json.dumps(document, allow_nan=False)
    elements = {k: len(document[k]) for k in ("entity", "activity", "agent")}
    assert sum(elements.values()) == len(graph)
    relations = {k: v for k, v in document.items() if k not in {"prefix", *elements}}
    assert sum(map(len, relations.values())) == len(graph.edges)
    names = {name for k in elements for name in document[k]}
    for fields in (f for r in relations.values() for f in r.values()):
        ends = [v for k, v in fields.items() if k.startswith("prov:") and k != "prov:time"]
        assert len(ends) == 2
        assert set(ends) <= names
    assert document["entity"][f"pk:{answer}"]["prov:label"] == "Final answer"


@pytest.mark.parametrize(
    ("type_", "cause", "effect", "relation", "effect_role", "cause_role"),
    [
        ("used", "artifact", "run", "used", "activity", "entity"),
        ("generated", "run", "artifact", "wasGeneratedBy", "entity", "activity"),
        ("derived", "source", "artifact", "wasDerivedFrom", "generatedEntity", "usedEntity"),
        ("informed", "run", "run", "wasInformedBy", "informed", "informant"),
        ("attributed", "actor", "run", "wasAssociatedWith", "activity", "agent"),
        ("attributed", "actor", "artifact", "wasAttributedTo", "entity", "agent"),
        ("attributed", "actor", "actor", "actedOnBehalfOf", "delegate", "responsible"),
        ("used", "actor", "run", "wasInfluencedBy", "influencee", "influencer"),
    ],
)
def test_cause_and_effect_take_the_right_roles(
    type_, cause, effect, relation, effect_role, cause_role
):
    nodes = [
        Node(id="c", type=cause, kind="x", label="c"),
        Node(id="e", type=effect, kind="x", label="e"),
    ]
    graph = Graph(nodes, [Edge(type=type_, cause="c", effect="e", basis="id", flow=False)])
    fields = to_prov_json(graph)[relation]["_:e0"]
    assert (fields[f"prov:{effect_role}"], fields[f"prov:{cause_role}"]) == ("pk:e", "pk:c")
    assert fields["pk:flow"] is False


def test_no_id_breaks_out_of_its_qualified_name():
    document = to_prov_json(sample.hostile())
    names = [n for k in ("entity", "activity", "agent") for n in document[k]]
    assert len(names) == len(sample.hostile())
    assert all(n.startswith("pk:") and n.count(":") == 1 and n.isascii() for n in names)


def test_times_are_utc_with_nine_decimals():
    assert utc(1_767_225_600_123_456_789) == "2026-01-01T00:00:00.123456789Z"
    assert utc(-1) == "1969-12-31T23:59:59.999999999Z"
