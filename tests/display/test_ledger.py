import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from provkeep.display.ledger import ledger_svg
from provkeep.display.mermaid import to_mermaid
from provkeep.display.words import PALE
from provkeep.model.graph import Edge, Graph, Node
from tests.display import sample

SVG = "{http://www.w3.org/2000/svg}"
ELEMENTS = {"svg", "g", "title", "rect", "circle", "text", "tspan", "path"}
ATTRIBUTES = {
    *("viewBox", "width", "height", "role", "aria-label", "x", "y", "dx", "rx", "cx", "cy", "r"),
    *("d", "fill", "fill-opacity", "opacity", "stroke", "stroke-width", "stroke-opacity"),
    *("font-family", "font-size", "font-weight", "font-style", "letter-spacing", "text-anchor"),
}


def parse(svg: str) -> ET.Element:
    return ET.fromstring(svg)


def texts(svg: str) -> list[str]:
    return ["".join(e.itertext()) for e in parse(svg).iter(f"{SVG}text")]


def graphs() -> list[Graph]:
    return [sample.agent_run()[0], sample.hostile(), sample.long_run(150), Graph((), ())]


@pytest.mark.parametrize("graph", graphs(), ids=["agent", "hostile", "long", "empty"])
def test_a_picture_holds_only_elements_and_presentation_attributes_notebooks_allow(graph):
    root = parse(ledger_svg(graph, title='a <b> & "c" \x00 title'))
    for element in root.iter():
        assert element.tag.removeprefix(SVG) in ELEMENTS
        assert set(element.attrib) <= ATTRIBUTES
    assert root.attrib["width"] == "100%"
    assert root.attrib["viewBox"].startswith("0 0 900 ")
    assert "height" not in root.attrib


def test_hostile_labels_are_text_and_nothing_else():
    svg = ledger_svg(sample.hostile(), focus=next(iter(sample.hostile().nodes)))
    assert "<script" not in svg
    assert "<!--" not in svg
    assert "]]>" not in svg
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff\ufffe\uffff]", svg)
    shown = "\n".join(texts(svg))
    assert "<script>alert(1)</script>" in shown
    assert "⟨U+202E⟩" in shown


def test_a_long_label_is_cut_in_the_picture_and_whole_in_its_title():
    root = parse(ledger_svg(sample.hostile()))
    group = next(g for g in root.iter(f"{SVG}g") if "xxxxx" in (g.findtext(f"{SVG}title") or ""))
    assert "long " + "x" * 10_000 in group.findtext(f"{SVG}title")
    shown = [t.text or "" for t in group.iter(f"{SVG}text")]
    assert all(len(text) < 120 for text in shown)
    assert any(text.startswith("long xxx") and text.endswith("…") for text in shown)


def test_attributes_of_a_node_never_show():
    """They may hold what a person typed."""
    node = Node(id="a", type="artifact", kind="text", label="text", attrs={"secret": "hunter2"})
    assert "hunter2" not in ledger_svg(Graph([node], []), focus="a")


def test_the_upstream_of_the_focus_is_bold_and_the_rest_is_not():
    graph, answer = sample.agent_run()
    root = parse(ledger_svg(graph, focus=answer))
    bold = {t.text for t in root.iter(f"{SVG}text") if t.get("font-weight") == "600"}
    assert {"Final answer", "Response #3", "faq.md ¶2", "crm:acct/77"} <= bold
    assert not bold & {"send_email", "ToolException", "AgentExecutor"}
    assert "STEP (upstream of “Final answer” in bold)" in texts(ledger_svg(graph, focus=answer))


def test_labels_status_and_time_are_shown():
    shown = texts(ledger_svg(sample.agent_run()[0]))
    assert {"confidential", "public", "pii", "restricted", "+2", "error", "9.3 s", "1.4 s"} <= set(
        shown
    )


def test_the_last_row_says_how_many_steps_are_not_shown():
    graph = sample.agent_run()[0]
    rows = len(list(parse(ledger_svg(graph)).iter(f"{SVG}circle")))
    svg = ledger_svg(graph, limit=10)
    assert len(list(parse(svg).iter(f"{SVG}circle"))) == 10
    assert texts(svg)[-1] == f"… {rows - 10} more steps not shown"
    assert "not shown" not in ledger_svg(graph)


def test_an_empty_graph_says_so():
    assert texts(ledger_svg(Graph((), ())))[-1] == "nothing to show"


def test_equal_graphs_give_equal_pictures():
    """Notebooks are compared and committed."""
    assert ledger_svg(sample.agent_run()[0]) == ledger_svg(sample.agent_run()[0])


def test_every_rail_stays_inside_the_picture_however_many_there_are():
    nodes = [
        Node(id=f"n{n}", type="artifact", kind=("text", "data")[n % 2], label="x", order=n)
        for n in range(600)
    ]
    edges = [
        Edge(type="derived", cause=f"n{n}", effect=f"n{599 - n}", basis="id") for n in range(300)
    ]
    svg = ledger_svg(Graph(nodes, edges))
    lanes = [float(x) for x in re.findall(r"M([\d.]+) \d+q0", svg)]
    assert len(lanes) == 300
    assert min(lanes) > 0
    assert max(lanes) < 450
    assert "e+" not in svg


def dots(svg: str) -> dict[str, tuple[str, str]]:
    """Title -> fill of the dot and of the label."""
    out = {}
    for group in parse(svg).iter(f"{SVG}g"):
        title, circle = group.find(f"{SVG}title"), group.find(f"{SVG}circle")
        if title is not None and circle is not None:
            label = group.findall(f"{SVG}text")[1]
            out[(title.text or "").splitlines()[1]] = circle.attrib["fill"], label.attrib["fill"]
    return out


def test_what_a_source_led_to_is_bold_and_the_rest_pale():
    graph, _ = sample.agent_run()
    source = next(graph.of("source"))
    path = graph.walk(source.id, upstream=False)
    svg = ledger_svg(graph, focus=source.id, path=path, way="downstream")
    assert f"STEP (downstream of “{source.label}” in bold)" in texts(svg)
    drawn = {about.split(" · ")[1]: ink for about, (_, ink) in dots(svg).items()}
    bold = {node_id for node_id, ink in drawn.items() if ink == "#0f172a"}
    assert bold and bold <= path
    assert {i for i in drawn if i not in path} == {i for i, ink in drawn.items() if ink == PALE}
    assert len(drawn) > len(bold) + 5


def test_a_path_between_two_things_is_said_to_be_one():
    graph, answer = sample.agent_run()
    path = graph.walk(answer, upstream=True)
    svg = ledger_svg(graph, focus=answer, path=path, way="between")
    assert "STEP (what lies between in bold)" in texts(svg)


def test_what_was_erased_has_a_hollow_dot_and_says_so():
    graph, answer = sample.agent_run()
    document = next(graph.of("artifact", "document"))
    nodes = [
        replace(n, status="erased", attrs={**n.attrs, "erased": 7}) if n is document else n
        for n in graph.nodes.values()
    ]
    before = ledger_svg(graph, focus=answer)
    svg = ledger_svg(Graph(nodes, graph.edges), focus=answer)
    assert "erased" not in texts(before)
    assert texts(svg).count("erased") == 1
    key = next(k for k in dots(svg) if k.endswith(document.id))
    assert dots(before)[key][0] != "#ffffff"
    assert dots(svg)[key][0] == "#ffffff"
    others = {k: v for k, v in dots(svg).items() if k != key}
    assert others == {k: v for k, v in dots(before).items() if k != key}
    for element in parse(svg).iter():
        assert set(element.attrib) <= ATTRIBUTES
    assert to_mermaid(Graph(nodes, graph.edges)).count(" · erased") == 1
