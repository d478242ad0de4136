import re
from dataclasses import replace

import pytest

from provkeep.display.mermaid import to_mermaid
from provkeep.display.notebook import mimebundle
from provkeep.display.tables import table
from provkeep.display.text import ledger_text
from provkeep.display.words import clean, clip, columns, duration
from provkeep.model.graph import Edge, Graph, Node
from tests.display import sample

UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def small() -> Graph:
    nodes = [
        Node(id=i, type="artifact", kind="text", label=i, trace="t", order=n)
        for n, i in enumerate(("one", "two", "three"))
    ]
    pairs = [("one", "two"), ("one", "three"), ("two", "three")]
    return Graph(nodes, [Edge(type="derived", cause=a, effect=b, basis="id") for a, b in pairs])


def test_rails_lead_from_causes_to_effects():
    assert ledger_text(small(), focus="three").splitlines() == [
        "╭───● TEXT    one",
        "├─┬─● TEXT    two",
        "╰─┴─◉ OUTPUT  three",
    ]


def test_what_is_outside_the_upstream_has_a_hollow_dot():
    assert [line.split()[0][-1] for line in ledger_text(small(), focus="two").splitlines()] == [
        "●",
        "◉",
        "○",
    ]


@pytest.mark.parametrize("width", [40, 80, 100])
@pytest.mark.parametrize("graph", [sample.agent_run()[0], sample.hostile(), sample.long_run(80)])
def test_no_line_is_wider_than_asked_or_moves_the_cursor(graph, width):
    text = ledger_text(graph, width=width)
    assert max(columns(line) for line in text.splitlines()) <= max(width, 60)
    assert not UNSAFE.search(text)


def test_rails_without_room_are_counted_not_dropped_in_silence():
    nodes = [Node(id=f"n{n}", type="source", kind="file", label="x", order=n) for n in range(40)]
    edges = [
        Edge(type="derived", cause=f"n{n}", effect=f"n{39 - n}", basis="id") for n in range(20)
    ]
    text = ledger_text(Graph(nodes, edges), width=40)
    assert text.splitlines()[-1] == "(14 long rails not drawn for want of room)"


def test_a_terminal_escape_in_a_label_becomes_visible():
    assert clean("a\x1b[31m\u202eb\nc\x00") == "a␛[31m⟨U+202E⟩b c␀"
    assert clean("naïve 料金 👩\u200d👧") == "naïve 料金 👩\u200d👧"


def test_cutting_counts_terminal_cells():
    assert clip("料金表料金表", 5) == "料金…"
    assert clip("abcdef", 6) == "abcdef"
    assert clip("abcdef", 1) == "…"
    assert clip("abcdef", 0) == ""
    assert columns("e\u0301") == 1


@pytest.mark.parametrize(
    ("ns", "words"),
    [
        (0, "0 s"),
        (12, "12 ns"),
        (12_345, "12 µs"),
        (999_400_000, "999 ms"),
        (999_600_000, "1.0 s"),
        (200 * 10**9, "3 min 20 s"),
        (9000 * 10**9, "2.5 h"),
        (216_000 * 10**9, "2.5 d"),
    ],
)
def test_durations_read_well(ns, words):
    assert duration(ns) == words


def test_a_table_lines_up_and_is_cut_to_width():
    text = table(["trace", "n", "what"], [["a" * 30, 1, "x" * 60], ["b", 22222, None]], width=40)
    assert text.splitlines() == [
        "trace                n  what",
        "───────────────  ─────  " + "─" * 16,
        "aaaaaaaaaaaaaa…      1  xxxxxxxxxxxxxxx…",
        "b                22222",
    ]
    assert table(["a", "b"], [], width=10) == "a  b\n─  ─"


def test_a_row_of_another_length_than_the_headers_is_refused():
    with pytest.raises(ValueError, match="row 1 has 1 values for 2 headers"):
        table(["a", "b"], [[1, 2], [1]], width=80)


def test_a_notebook_gets_a_picture_and_text():
    graph, answer = sample.agent_run()
    bundle = mimebundle(graph, answer, "run 7f3a")
    assert sorted(bundle) == ["image/svg+xml", "text/plain"]
    assert bundle["image/svg+xml"].startswith("<svg ")
    assert "◉ OUTPUT" in bundle["text/plain"]


def test_mermaid_shows_what_the_ledger_shows():
    lines = to_mermaid(small()).splitlines()
    assert lines == [
        "flowchart TD",
        '    n0("TEXT: one")',
        '    n1("TEXT: two")',
        '    n2("TEXT: three")',
        "    n0 --> n1",
        "    n0 --> n2",
        "    n1 --> n2",
    ]


def test_no_label_breaks_out_of_its_mermaid_node():
    shape = r"    n\d+(\[\"|\(\"|\[\(\"|\(\[\")[\w .,\-…¶·#;:]*(\"\]|\"\)|\"\)\]|\"\]\))"
    for line in to_mermaid(sample.hostile()).splitlines()[1:]:
        assert re.fullmatch(shape, line) or re.fullmatch(r"    n\d+ --> n\d+", line), line


def test_what_is_not_on_the_path_has_a_hollow_dot_and_what_was_erased_a_dotted_one():
    graph, _ = sample.agent_run()
    source = next(n for n in graph.of("artifact", "document"))
    path = graph.walk(source.id, upstream=False)
    marked = replace(source, status="erased", attrs={"erased": 7})
    graph = Graph([marked if n is source else n for n in graph.nodes.values()], graph.edges)
    lines = ledger_text(graph, path=path).splitlines()
    (line,) = [line for line in lines if "erased" in line]
    assert source.label in line
    beside = [line for line in lines if any(w in line for w in ("ACTOR", "INPUT", "INDEX"))]
    assert len(beside) == 3 and all("○" in line for line in beside)
    (output,) = [line for line in lines if "OUTPUT" in line]
    assert "●" in output
