import copy
import importlib.resources
import json

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from provkeep.errors import ExportError
from provkeep.export.json import load, to_document, write
from provkeep.model.graph import BASES, EDGE_TYPES, NODE_TYPES, Edge, Graph, Node, Span
from tests.display import sample

SCHEMA = json.loads(
    importlib.resources.files("provkeep.export").joinpath("graph.schema.json").read_text()
)
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def same(a: Graph, b: Graph) -> bool:
    return list(a.nodes.items()) == list(b.nodes.items()) and a.edges == b.edges


@pytest.fixture
def document():
    graph, answer = sample.agent_run()
    return to_document(graph, focus=answer, about={"origin": "log.example/a"})


def broken(document, change):
    out = copy.deepcopy(document)
    change(out)
    return json.dumps(out)


def test_the_schema_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("graph", [sample.agent_run()[0], sample.hostile(), Graph((), ())])
def test_an_export_follows_the_schema_and_reads_back_equal(graph, tmp_path):
    document = to_document(graph)
    VALIDATOR.validate(document)
    path = tmp_path / "graph.json"
    write(path, document)
    for given_ in (document, path, str(path), json.dumps(document)):
        back, focus, read = load(given_)
        assert same(back, graph)
        assert focus is None
        assert read == document


def test_focus_about_and_payloads_survive(tmp_path):
    graph, answer = sample.agent_run()
    payloads = {answer: {"text": "30 days\ud800", "n": [1, 2.5, None, True, 10**30]}}
    document = to_document(graph, focus=answer, payloads=payloads, about={"by": "x"})
    VALIDATOR.validate(document)
    write(tmp_path / "g.json", document)
    _, focus, read = load(tmp_path / "g.json")
    assert (focus, read["payloads"], read["about"]) == (answer, payloads, {"by": "x"})


def test_no_payload_is_exported_unless_given(document):
    assert "payloads" not in document


def test_times_are_strings_since_a_double_cannot_hold_them(document):
    times = [n["start_ns"] for n in document["nodes"] if "start_ns" in n]
    assert times
    assert all(type(ns) is str for ns in times)


def put(path, value):
    def change(document):
        here = document
        for key in path[:-1]:
            here = here[key]
        here[path[-1]] = value

    return change


WRONG = [
    (["format"], "other", "/format"),
    (["version"], "1", "/version"),
    (["version"], True, "/version"),
    (["version"], 2, "/version"),
    (["nodes"], {}, "/nodes"),
    (["nodes", 3], [], "/nodes/3"),
    (["nodes", 3, "type"], "person", "/nodes/3/type"),
    (["nodes", 3, "id"], "", "/nodes/3/id"),
    (["nodes", 3, "id"], 7, "/nodes/3/id"),
    (["nodes", 3, "id"], "u.alice", "/nodes/3/id"),
    (["nodes", 3, "label"], None, "/nodes/3/label"),
    (["nodes", 3, "size"], -1, "/nodes/3/size"),
    (["nodes", 3, "size"], True, "/nodes/3/size"),
    (["nodes", 3, "order"], 1.0, "/nodes/3/order"),
    (["nodes", 3, "start_ns"], 1, "/nodes/3/start_ns"),
    (["nodes", 3, "start_ns"], "01", "/nodes/3/start_ns"),
    (["nodes", 3, "start_ns"], "1\n", "/nodes/3/start_ns"),
    (["nodes", 3, "start_ns"], "٣", "/nodes/3/start_ns"),
    (["nodes", 3, "start_ns"], "9" * 19, "/nodes/3/start_ns"),
    (["nodes", 3, "labels"], ["a", 1], "/nodes/3/labels/1"),
    (["nodes", 3, "attrs"], [], "/nodes/3/attrs"),
    (["nodes", 3, "extra"], 1, "/nodes/3"),
    (["links", 0, "source"], "nobody", "/links/0/source"),
    (["links", 0, "target"], "nobody", "/links/0/target"),
    (["links", 0, "type"], "caused", "/links/0/type"),
    (["links", 0, "basis"], "guessed", "/links/0/basis"),
    (["links", 0, "flow"], 0, "/links/0/flow"),
    (["links", 0, "coverage_permille"], 1001, "/links/0/coverage_permille"),
    (["links", 0, "spans"], [[0, 1, 2]], "/links/0/spans/0"),
    (["links", 0, "spans"], [[2, 1, 0, 1]], "/links/0/spans/0"),
    (["links", 0, "spans"], [[0, 1, 0, -1]], "/links/0/spans/0/3"),
    (["focus"], "nobody", "/focus"),
    (["focus"], 1, "/focus"),
    (["about"], [], "/about"),
    (["payloads"], {"u.alice": 1}, "/payloads"),
    (["more"], 1, "/"),
]
# What only the reader can know, and what JSON Schema sees otherwise: 1.0 is an integer to it, and
# the end of a pattern may stand before a last newline.
NOT_IN_SCHEMA = [
    "u.alice",
    {"u.alice": 1},
    "nobody",
    "9" * 19,
    [[2, 1, 0, 1]],
    "1\n",
    1.0,
]


@pytest.mark.parametrize(("path", "value", "where"), WRONG)
def test_what_is_wrong_is_named_with_its_place(document, path, value, where):
    with pytest.raises(ExportError) as caught:
        load(broken(document, put(path, value)))
    assert caught.value.where == where
    assert str(caught.value).startswith(where)


@pytest.mark.parametrize(("path", "value", "where"), WRONG)
def test_the_schema_refuses_what_the_reader_refuses(document, path, value, where):
    beyond = any(type(value) is type(v) and value == v for v in NOT_IN_SCHEMA)
    assert VALIDATOR.is_valid(json.loads(broken(document, put(path, value)))) == beyond


@pytest.mark.parametrize("key", ["focus", "about", "nodes", "links", "format", "version"])
def test_a_missing_member_is_named(document, key):
    with pytest.raises(ExportError, match=key):
        load(broken(document, lambda d: d.pop(key)))


def test_a_newer_version_asks_for_an_upgrade(document):
    with pytest.raises(ExportError, match=r"version 2 is newer than 1.*upgrade"):
        load(broken(document, put(["version"], 2)))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "not JSON"),
        ("{}", "not a provkeep-graph"),
        ('{"a": 1, "b": 2, "a": 3}', "'a' stands twice"),
        ('{"about": NaN}', "NaN is not a JSON number"),
        ('{"a": ' + "1" * 5000 + "}", "too many digits"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "too deep"),
    ],
)
def test_text_that_is_not_strict_json_is_refused(text, problem):
    with pytest.raises(ExportError, match=problem):
        load(text)


def test_a_file_that_is_not_json_or_not_text_is_refused(tmp_path):
    path = tmp_path / "x.json"
    for data, problem in ((b"\xff\xfe", "UTF-8"), (b"[]", "array"), (b"", "not JSON")):
        path.write_bytes(data)
        with pytest.raises(ExportError, match=problem):
            load(path)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.json")


def test_values_nested_too_deep_are_refused_both_ways(document):
    deep = []
    for _ in range(200):
        deep = [deep]
    with pytest.raises(ExportError, match="nested deeper than 128"):
        load(broken(document, put(["about"], {"a": deep})))
    with pytest.raises(ExportError, match="nested deeper than 128"):
        to_document(Graph((), ()), about={"a": deep})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), b"x", {1: 2}, {"a": {3}}, object()])
def test_what_json_has_no_word_for_is_not_exported(value):
    node = Node(id="a", type="artifact", kind="text", label="a", attrs={"x": value})
    with pytest.raises(ExportError, match="/nodes/0/attrs"):
        to_document(Graph([node], ()))


def test_no_error_repeats_a_payload():
    graph, answer = sample.agent_run()
    for payload in ({"hunter2": object()}, {"hunter2": float("nan")}):
        with pytest.raises(ExportError) as caught:
            to_document(graph, payloads={answer: payload})
        assert "hunter2" not in str(caught.value)


def test_a_graph_with_a_dangling_edge_is_not_exported():
    graph = Graph((), [Edge(type="used", cause="a", effect="b", basis="id")])
    with pytest.raises(ExportError, match="dangling"):
        to_document(graph)


def test_nothing_is_written_for_a_document_that_is_not_one(tmp_path):
    with pytest.raises(ExportError):
        write(tmp_path / "x.json", {"format": "provkeep-graph"})
    assert not (tmp_path / "x.json").exists()


TEXT = st.text(st.characters(), max_size=8)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
NS = st.none() | st.integers(-(2**63) + 1, 2**63 - 1)
NODES = st.lists(
    st.builds(
        Node,
        id=st.text(min_size=1, max_size=5),
        type=st.sampled_from(NODE_TYPES),
        kind=TEXT,
        label=TEXT,
        trace=st.none() | TEXT,
        order=st.integers(),
        start_ns=NS,
        end_ns=NS,
        status=st.none() | TEXT,
        compartment=st.none() | TEXT,
        size=st.none() | st.integers(0),
        labels=st.lists(TEXT, max_size=2).map(tuple),
        attrs=st.dictionaries(TEXT, JSON, max_size=2),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda n: n.id,
)
SPANS = st.builds(
    lambda a, b, c, d: Span(target_start=a, target_end=a + b, source_start=c, source_end=c + d),
    *[st.integers(0, 2**60)] * 4,
)


@given(st.data())
def test_any_graph_reads_back_equal(data):
    nodes = data.draw(NODES)
    ids = st.sampled_from([n.id for n in nodes])
    edge = st.builds(
        Edge,
        type=st.sampled_from(EDGE_TYPES),
        cause=ids,
        effect=ids,
        basis=st.sampled_from(BASES),
        coverage_permille=st.none() | st.integers(0, 1000),
        spans=st.lists(SPANS, max_size=2).map(tuple),
        flow=st.booleans(),
    )
    graph = Graph(nodes, data.draw(st.lists(edge, max_size=5)))
    document = to_document(graph, focus=nodes[0].id)
    VALIDATOR.validate(document)
    assert same(load(json.dumps(document))[0], graph)
